"""What goes on beside a device's computing: copies to it, and reading from disk.

On the CPU nothing is copied, nothing waits and nothing is read ahead.
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
    """Copies to one device, begun by one thread at a time."""

    def after_computing(self) -> None:
        """Let copies that are begun from here on wait until everything asked of the device so far is computed, since
        that may still read what they write over."""
        ...

    def begin(self, copy: Callable[[], T]) -> T:
        """Begin the copies that `copy` asks for. What it returns must not be read before `finish`."""
        ...

    def finish(self, *copied: Tensor) -> None:
        """Let everything asked of the device from here on wait for the copies begun so far; `copied` are those whose
        memory they took."""
        ...


class AtOnce:
    """Copies that are finished when `begin` returns."""

    def after_computing(self) -> None:
        """Nothing is going on."""

    def begin(self, copy: Callable[[], T]) -> T:
        """Copy."""
        return copy()

    def finish(self, *copied: Tensor) -> None:
        """They are finished."""


class OnStream:
    """Copies on a stream of an NVIDIA GPU of their own."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def after_computing(self) -> None:
        """Make the stream wait for the one that computes."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def begin(self, copy: Callable[[], T]) -> T:
        """Put the copies on the stream; only those from pinned memory, and not blocking, go on beside anything."""
        with torch.cuda.stream(self._stream):
            return copy()

    def finish(self, *copied: Tensor) -> None:
        """Make the stream that computes wait for this one, and keep memory taken by copies until it has read it."""
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        for tensor in copied:
            tensor.record_stream(computing)


def copies_to(device: torch.device) -> Copies:
    """How copies to a device go on."""
    return OnStream(device) if device.type == "cuda" else AtOnce()


def host_memory(n_bytes: int, device: torch.device) -> Tensor:
    """Bytes of memory from which a device can copy by itself."""
    return torch.empty(n_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device. From the CPU to a GPU the copy is only begun: use it within `Copies.begin`."""
    if tensor.device == device or device.type == "cpu":
        return tensor.to(device)
    pinned = tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
    return pinned.to(device, non_blocking=True)


def ahead(
    items: Iterator[T], prepare: Callable[[T], tuple[int, Tensor]], device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """What `prepare` makes of each item, as a rule by `to_device`; on a device the next one's copies go on while the
    present one is used. Memory there: two of what is made."""
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
    """What `read` gives for each item, in order; beside a device that computes, a thread reads the next one. Memory:
    two of them."""
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
