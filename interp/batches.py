"""Work in batches, which are halved where memory has no room for them."""

import sys
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from contextvars import ContextVar
from typing import TypeVar

import torch

T = TypeVar("T")

NO_ROOM = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Words in the messages of errors that mean that memory ran out."""

_fits: MutableMapping[str, int] = {}
"""Number of tokens that were found to fit in a batch, by kind of work and device."""

_around: ContextVar[int] = ContextVar("_around", default=0)
"""Number of items in the batch of other work that this thread is computing; 0: none."""


def in_batches(
    what: str, device: torch.device | str, n: int, at_once: int, run: Callable[[slice], None], width: int = 1
) -> None:
    """Like `each_batch`, for work that stores its results itself."""
    deque(each_batch(what, device, n, at_once, run, width), maxlen=0)


def each_batch(
    what: str, device: torch.device | str, n: int, at_once: int, run: Callable[[slice], T], width: int = 1
) -> Iterator[T]:
    """The results of `run` on `n` items of `width` tokens in order, `at_once` of them in a batch.

    A batch that does not fit into memory is done in halves, and so are the rest; a message says so. `run` must be able
    to repeat the items of a failed batch. Later work of this kind begins with the smaller size if a batch of `at_once`
    items failed: `at_once` is the size of a full batch, also where `n` is less. If fewer failed, others had taken the
    memory. Within a batch of another `each_batch`, that batch is halved first, and no size is recorded.

    Raises:
        RuntimeError: not even a single item fits, or an error of `run`.
    """
    sizes, key, start = _fits, f"{what} on {device}", 0
    at_once = full = max(1, min(at_once, sizes.get(key, at_once * width) // max(1, width)))
    while start < n:
        size, around = min(at_once, n - start), _around.get()
        try:
            found = _as_batch(run, slice(start, start + size), max(size, around))
        except RuntimeError as error:
            if size == 1 or around > 1 or not is_out_of_memory(error):
                raise
        else:
            yield found
            del found
            start += size
            continue
        # Out here, where nothing holds on to the tensors of the pass that failed.
        free_unused(device)
        at_once = (size + 1) // 2
        if size >= full and not around:
            full, sizes[key] = at_once, at_once * width
        print(f"{what}: {size} at once do not fit into the memory of {device}; from here on {at_once}", file=sys.stderr)


def _as_batch(run: Callable[[slice], T], part: slice, size: int) -> T:
    entered = _around.set(size)
    try:
        return run(part)
    finally:
        _around.reset(entered)


def free_unused(device: torch.device | str) -> None:
    """Give memory that PyTorch keeps for later tensors back to the device, so that larger ones find room."""
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error means that memory ran out. PyTorch has an exception class for this on GPUs; on the CPU, and
    where a library of the GPU finds no room for its own buffers, only the message says so."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in NO_ROOM)


def remember_sizes(sizes: MutableMapping[str, int]) -> None:
    """Start with these sizes, and record there what is found."""
    global _fits
    _fits = sizes


def forget_sizes() -> None:
    """Begin with the asked-for sizes again."""
    remember_sizes({})
