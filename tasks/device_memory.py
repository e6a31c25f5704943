"""How a GPU's memory is divided. The limits for host memory (and Apple's GPUs, which share it) are elsewhere."""

import torch

WEIGHTS_SHARE = 0.6
"""Largest share for a model's weights; layers that do not fit are streamed from host memory. The rest is for
activations, transcoders and columns."""

CACHE_SHARE = 0.1
"""Largest share for each of the two caches on a GPU: encoders, and WeightLens's columns."""


def device_bytes(device: str) -> int | None:
    """A device's own memory in bytes; None if it has none."""
    return torch.cuda.mem_get_info(device)[1] if device.startswith("cuda") else None


def room_for_weights(device: str) -> int | None:
    """The limit for a model's weights on a device, in bytes; None: no limit."""
    there = device_bytes(device)
    return None if there is None else int(WEIGHTS_SHARE * there)


def room_for_cache(device: str, on_host: int) -> int:
    """The limit of a cache on a device, in bytes: `CACHE_SHARE` of its memory, but at least the limit on the host."""
    return max(on_host, int(CACHE_SHARE * (device_bytes(device) or 0)))
