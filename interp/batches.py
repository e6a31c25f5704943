"""Work in batches, which are halved where memory has no room for them."""

import sys
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from typing import TypeVar

import torch

T = TypeVar("T")

_fits: MutableMapping[str, int] = {}
"""Number of tokens that were found to fit in a batch, by kind of work and device."""


def in_batches(
    what: str, device: torch.device | str, n: int, at_once: int, run: Callable[[slice], None], width: int = 1
) -> None:
    """Like `each_batch`, for work that stores its results itself."""
    deque(each_batch(what, device, n, at_once, run, width), maxlen=0)


def each_batch(
    what: str, device: torch.device | str, n: int, at_once: int, run: Callable[[slice], T], width: int = 1
) -> Iterator[T]:
    """The results of `run` on `n` items of `width` tokens in order, `at_once` of them in a batch.

    A batch that does not fit into memory is done in halves, and so are all later ones of this work; a message says so
    once. `run` must be able to repeat the items of a failed batch.

    Raises:
        RuntimeError: not even a single item fits, or an error of `run`.
    """
    sizes, key, start = _fits, f"{what} on {device}", 0
    at_once = max(1, min(at_once, sizes.get(key, at_once * width) // max(1, width)))
    while start < n:
        size = min(at_once, n - start)
        try:
            found = run(slice(start, start + size))
        except RuntimeError as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        else:
            yield found
            del found  # the next batch has the memory to itself
            start += size
            continue
        # Out here, where nothing holds on to the tensors of the pass that failed.
        if torch.device(device).type == "cuda":
            torch.cuda.empty_cache()
        at_once = (size + 1) // 2
        sizes[key] = at_once * width
        print(f"{what}: {size} at once do not fit into the memory of {device}; from here on {at_once}", file=sys.stderr)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error means that memory ran out. PyTorch has an exception class for this on GPUs; on the CPU only the
    message says so."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "can't allocate memory" in said


def remember_sizes(sizes: MutableMapping[str, int]) -> None:
    """Start with these sizes, and record there what is found."""
    global _fits
    _fits = sizes


def forget_sizes() -> None:
    """Begin with the asked-for sizes again."""
    remember_sizes({})
