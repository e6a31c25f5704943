"""Near-duplicates: texts that occur, in whole or in large part, in other text.

The sketch of a text is the smallest hashes of its runs of `RUN` tokens (MinHash in its bottom-k form, Broder 1997). The
share of them that occurs in the other text estimates how much of the text occurs there. Memory does not grow with the
length of the other text.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Integer, UInt64

RUN = 13
"""Tokens in a run. Two texts with a run of this length in common are not independent of each other."""

SKETCH = 32
"""Largest number of hashes in a sketch."""

_MULTIPLIER = 0x9E3779B97F4A7C15


def run_hashes(tokens: Integer[np.ndarray, "*rows n"]) -> UInt64[np.ndarray, "*rows runs"]:
    """A hash of every run of `RUN` tokens along the last axis; none where there are fewer tokens."""
    n_runs = max(0, tokens.shape[-1] - RUN + 1)
    unsigned = tokens.astype(np.uint64)
    found = np.zeros((*tokens.shape[:-1], n_runs), np.uint64)
    for at in range(RUN):
        found = found * np.uint64(_MULTIPLIER) + unsigned[..., at : at + n_runs]
    found ^= found >> np.uint64(31)  # splitmix64's last steps, so that the smallest hashes are a random sample
    found *= np.uint64(0xBF58476D1CE4E5B9)
    found ^= found >> np.uint64(27)
    return found


def shares_found(
    texts: Sequence[Sequence[int]], rows: Iterable[Integer[np.ndarray, "rows n_pos"]]
) -> Float[np.ndarray, " texts"]:
    """For each text, the share of its sketch that occurs within the rows of `tokens`; 0 for a text shorter than a run.
    Memory: the sketches, and the hashes of a block of rows."""
    sketches = [np.unique(run_hashes(np.array(text, np.int64)))[:SKETCH] for text in texts]
    wanted = np.unique(np.concatenate([np.zeros(0, np.uint64), *sketches]))
    is_found = np.zeros(len(wanted), bool)
    if len(wanted):
        for block in rows:
            hashes = run_hashes(block).ravel()
            at = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
            is_found[at[wanted[at] == hashes]] = True
    return np.array(
        [is_found[np.searchsorted(wanted, sketch)].mean() if len(sketch) else 0.0 for sketch in sketches], np.float64
    )
