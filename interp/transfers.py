"""Work at the same time as a device computes: copying data to it, and reading from disk.

On the CPU, nothing is copied or read ahead.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")


class Copies(Protocol):
    """Copies to one device, started by one thread at a time."""

    def after_computing(self) -> None:
        """Make later copies wait until everything that the device was asked for so far is computed, since that may
        still read the memory that they overwrite."""
        ...

    def begin(self, copy: Callable[[], T]) -> T:
        """Start the copies that `copy` makes. Its result must not be read before `finish`."""
        ...

    def finish(self, *copied: Tensor) -> None:
        """Make everything that the device is asked for from now on wait for the copies started so far; `copied` are the
        tensors that they fill."""
        ...


class AtOnce:
    """Copies that are finished when `begin` returns."""

    def after_computing(self) -> None:
        """Does nothing, since nothing runs at the same time."""

    def begin(self, copy: Callable[[], T]) -> T:
        """Make the copies."""
        return copy()

    def finish(self, *copied: Tensor) -> None:
        """Does nothing, since the copies are finished."""


class OnStream:
    """Copies on a separate stream of an NVIDIA GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def after_computing(self) -> None:
        """Make the copying stream wait for the computing one."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def begin(self, copy: Callable[[], T]) -> T:
        """Put the copies on the copying stream. Only non-blocking copies from pinned memory overlap with
        computation."""
        with torch.cuda.stream(self._stream):
            return copy()

    def finish(self, *copied: Tensor) -> None:
        """Make the computing stream wait for the copying one, and keep the memory of copies until it has read them."""
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        for tensor in copied:
            tensor.record_stream(computing)


def copies_to(device: torch.device) -> Copies:
    """The way of copying to a device."""
    return OnStream(device) if device.type == "cuda" else AtOnce()


def host_memory(n_bytes: int, device: torch.device) -> Tensor:
    """Uninitialised host memory from which a device can copy (pinned for a GPU)."""
    return torch.empty(n_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. From the CPU to a GPU, the copy is only started: call this within `Copies.begin`."""
    if tensor.device == device or device.type == "cpu":
        return tensor.to(device)
    pinned = tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
    return pinned.to(device, non_blocking=True)


def ahead(
    items: Iterator[T], prepare: Callable[[T], tuple[int, Tensor]], device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """The results of `prepare` for each item, which usually calls `to_device`. While one is used, the copies of the
    next one run. Memory on the device: two of the results."""
    if device.type == "cpu":
        yield from map(prepare, items)
        return
    copies = copies_to(device)

    def begun() -> tuple[int, Tensor] | None:
        return next((copies.begin(partial(prepare, item)) for item in items), None)

    coming = begun()
    while coming is not None:
        here = coming
        copies.finish(here[1])
        coming = begun()
        yield here


def read_ahead(items: Iterable[T], read: Callable[[T], R], device: torch.device | str) -> Iterator[R]:
    """The results of `read` for each item, in order. With a GPU, a thread reads the next one while the device computes.
    Memory: two of the results."""
    if torch.device(device).type == "cpu":
        yield from map(read, items)
        return
    with ThreadPoolExecutor(1) as reader:
        coming = None
        for item in items:
            before, coming = coming, reader.submit(read, item)
            if before is not None:
                yield before.result()
        if coming is not None:
            yield coming.result()
