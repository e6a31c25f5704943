"""Compiled loops that keep the best scores of a block while it is in the cache."""

import numpy as np
from numba import njit

GROUP = 16
"""Columns compared at once by their extremes."""

N_BINS = 256
"""Bins into which scores are counted to find the edge of the best."""


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "nnan"})
def fold(scores, start, pool, keys, counts, floors, sums):
    """One pass over a block of scores: sums, and every score at or above its row's floor into the pool.

    A row's floor is the `pool`-th best score so far, so nothing that belongs to the final pool is missed.
    Groups of columns are compared by their extremes first, which the compiler turns into vector code.
    """
    n_rows, n = scores.shape
    n_groups = n // GROUP
    high = np.empty(n_groups, np.float32)
    low = np.empty(n_groups, np.float32)
    for r in range(n_rows):
        line = scores[r]
        total, squares, absolute = np.float32(0), np.float32(0), np.float32(0)
        for c in range(n):
            x = line[c]
            total += x
            squares += x * x
            absolute += abs(x)
        sums[r, 0] += total
        sums[r, 1] += squares
        sums[r, 2] += absolute
        for g in range(n_groups):
            high[g] = line[g]
            low[g] = line[g]
        for k in range(1, GROUP):
            part = line[k * n_groups : (k + 1) * n_groups]
            for g in range(n_groups):
                high[g] = max(high[g], part[g])
                low[g] = min(low[g], part[g])
        for tail in range(2):
            sign = np.float32(1) if tail == 0 else np.float32(-1)
            extremes = high if tail == 0 else low
            counts[tail, r], floors[tail, r] = _admit(
                line, start, sign, extremes, pool, keys[tail, r], counts[tail, r], floors[tail, r]
            )


@njit(nogil=True, cache=True)
def _admit(line, start, sign, extremes, pool, keys, n, floor):
    """Put every signed score at or above the floor into one row's pool; returns its new size and floor."""
    n_groups = len(extremes)
    for g in range(n_groups):
        if sign * extremes[g] >= floor:
            for c in range(g, n_groups * GROUP, n_groups):
                x = sign * line[c]
                if x >= floor:
                    keys[n] = _key(x, start + c)
                    n += 1
                    if n == len(keys):
                        floor = _keep_best(keys, n, pool)
                        n = pool
    for c in range(n_groups * GROUP, len(line)):
        x = sign * line[c]
        if x >= floor:
            keys[n] = _key(x, start + c)
            n += 1
            if n == len(keys):
                floor = _keep_best(keys, n, pool)
                n = pool
    return n, floor


@njit(nogil=True, cache=True)
def _keep_best(keys, n, pool):
    """Move the best `pool` of the first `n` keys to the front, in no order; returns the least score of them.

    The scores are counted into equal bins between their extremes; only the bin that the `pool`-th best
    falls into has to be sorted.
    """
    least, most = keys[:n].min(), keys[:n].max()
    low = _score(least)
    span = _score(most) - low
    scale = np.float32(N_BINS - 1) / span if span > 0 else np.float32(0)
    if not np.isfinite(scale):
        scale = np.float32(0)
    counts = np.zeros(N_BINS, np.int64)
    for i in range(n):
        counts[np.int64((_score(keys[i]) - low) * scale)] += 1
    edge, above = N_BINS - 1, 0
    while above + counts[edge] < pool:
        above += counts[edge]
        edge -= 1
    boundary = np.empty(counts[edge], np.int64)
    kept, met = 0, 0
    for i in range(n):
        key = keys[i]
        bin_ = np.int64((_score(key) - low) * scale)
        if bin_ > edge:
            keys[kept] = key
            kept += 1
        elif bin_ == edge:
            boundary[met] = key
            met += 1
    boundary.sort()
    while kept < pool:
        met -= 1
        keys[kept] = boundary[met]
        kept += 1
    return _score(boundary[met])


@njit(nogil=True, cache=True, inline="always")
def _key(x, column):
    bits = np.int64(np.float32(x).view(np.int32)) if x != 0 else np.int64(0)  # minus zero is zero
    if bits < 0:
        bits ^= np.int64(0x7FFFFFFF)
    return (bits << np.int64(32)) | (np.int64(0xFFFFFFFF) - np.int64(column))


@njit(nogil=True, cache=True, inline="always")
def _score(key):
    bits = key >> np.int64(32)
    if bits < 0:
        bits ^= np.int64(0x7FFFFFFF)
    return np.int32(bits).view(np.float32)


@njit(nogil=True, cache=True)
def trim(keys, counts, pool):
    """The best `pool` keys of every row, in no order. Every row has seen at least `pool` columns."""
    for r in range(keys.shape[0]):
        _keep_best(keys[r], counts[r], pool)
    return keys[:, :pool].copy()
