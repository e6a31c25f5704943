"""How a GPU's memory is divided. The limits for host memory (and Apple's GPUs, which share it) are elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore, Lock

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


TASKS_AT_ONCE = 2
"""Tasks of a process that compute on a GPU at the same time: while one of them waits for the host, the other computes.
More would only share its memory."""


@contextmanager
def turn_on(device: str) -> Iterator[None]:
    """A context in which a task computes on a device. On a GPU it waits until fewer than `TASKS_AT_ONCE` others do.

    What a task leaves on the GPU should be released at the end of the context. It must not be entered again within
    itself.
    """
    if device == "cpu":
        yield
        return
    with _turns(device):
        yield


_lock = Lock()
_by_device: dict[str, BoundedSemaphore] = {}


def _turns(device: str) -> BoundedSemaphore:
    with _lock:
        return _by_device.setdefault(device, BoundedSemaphore(TASKS_AT_ONCE))
