"""Near-duplicates: which texts stand, in whole or in great part, in other text too.

A text's sketch is the least hashes of its runs of `RUN` tokens (MinHash in its bottom-k form, Broder 1997), and the
share of them that the other text has estimates how much of the text stands there. Memory does not grow with the other
text.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Integer, UInt64

RUN = 13
"""Tokens of a run: texts that have so many in common, one after the other, did not come by them independently."""

SKETCH = 32
"""Most hashes that a sketch has."""

_MULTIPLIER = 0x9E3779B97F4A7C15


def run_hashes(tokens: Integer[np.ndarray, "*rows n"]) -> UInt64[np.ndarray, "*rows runs"]:
    """A hash of every run of `RUN` tokens, along the last axis; none where there are fewer tokens."""
    n_runs = max(0, tokens.shape[-1] - RUN + 1)
    unsigned = tokens.astype(np.uint64)
    found = np.zeros((*tokens.shape[:-1], n_runs), np.uint64)
    for at in range(RUN):
        found = found * np.uint64(_MULTIPLIER) + unsigned[..., at : at + n_runs]
    found ^= found >> np.uint64(31)  # splitmix64's last steps: the least hashes are then a draw at random
    found *= np.uint64(0xBF58476D1CE4E5B9)
    found ^= found >> np.uint64(27)
    return found


def shares_found(
    texts: Sequence[Sequence[int]], rows: Iterable[Integer[np.ndarray, "rows n_pos"]]
) -> Float[np.ndarray, " texts"]:
    """Of each text, the share of its sketch that stands in some rows of tokens, none across rows; 0 of a text that is
    shorter than a run. Memory: the sketches, and the hashes of a block of rows."""
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
