"""Work in batches, which are halved where memory has no room for them."""

import sys
from collections.abc import Callable

import torch

_FITS: dict[tuple[str, str], int] = {}
"""Batch sizes that this process has found to fit, by the work and the device."""


def in_batches(what: str, device: torch.device | str, n: int, at_once: int, run: Callable[[slice], None]) -> None:
    """Do `run` on all of `n` items in order, `at_once` of them together.

    A batch for which there is no memory is done in halves, and so are all later ones of this work in this process; one
    line says so. `run` must be able to do the items of a failed batch again.

    Raises:
        RuntimeError: not even a single item fits, or what else `run` raises.
    """
    key, start = (what, str(device)), 0
    at_once = max(1, min(at_once, _FITS.get(key, at_once)))
    while start < n:
        size = min(at_once, n - start)
        try:
            run(slice(start, start + size))
        except RuntimeError as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        else:
            start += size
            continue
        # Out here, where nothing holds on to the tensors of the pass that failed.
        if torch.device(device).type == "cuda":
            torch.cuda.empty_cache()
        at_once = _FITS[key] = (size + 1) // 2
        print(f"{what}: {size} at once do not fit into the memory of {device}; from here on {at_once}", file=sys.stderr)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error means that memory ran out. PyTorch has an exception class for this on GPUs; on the CPU only the
    message says so."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "can't allocate memory" in said


def forget_sizes() -> None:
    """Begin with the asked-for sizes again."""
    _FITS.clear()
