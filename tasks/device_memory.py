"""What of a GPU's memory goes to what. The CPU's memory, and Apple's, which is the same, is bounded elsewhere."""

import torch

WEIGHTS_SHARE = 0.6
"""Most that a model's weights may take; layers beyond are streamed from host memory. The rest is for activations,
transcoders and columns."""

CACHE_SHARE = 0.1
"""Most that each of the caches on a GPU may take: encoders, and WeightLens's columns."""


def device_bytes(device: str) -> int | None:
    """Bytes of memory that a device has of its own; None if it has none."""
    return torch.cuda.mem_get_info(device)[1] if device.startswith("cuda") else None


def room_for_weights(device: str) -> int | None:
    """Bytes of a model's weights that may be on a device; None: all of them."""
    there = device_bytes(device)
    return None if there is None else int(WEIGHTS_SHARE * there)


def room_for_cache(device: str, on_host: int) -> int:
    """Bytes for a cache on a device: what it may take on the host, or more where there is more."""
    return max(on_host, int(CACHE_SHARE * (device_bytes(device) or 0)))
