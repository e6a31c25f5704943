"""Compiled loops that keep the best scores of a block while it is in the cache.

Every row has two tails, the scores themselves and the scores negated, and for each a pool of candidates: keys that
order by score and then by the smaller column. A score enters when it reaches the row's floor, and a floor is only ever
raised to a value that at least `pool` scores seen so far reach. So the final pool is always among the candidates, for
any order and size of the blocks. A histogram of the candidates, on bins that the row's first block determines, gives
possible floors; only a full pool has to be sorted.
"""

import numpy as np
from numba import njit

GROUP = 16
"""Columns compared at a time by their extremes, in vector code."""

N_BINS = 256

INFINITE = 0x7F800000
"""Bits of infinity without the sign; those of finite numbers are less, those of NaN more."""


@njit(nogil=True, cache=True)
def _greatest(patterns):
    """The greatest bit pattern without the sign. Bits are compared because fast-math code may assume that there is no
    NaN."""
    greatest = np.int32(0)
    for c in range(len(patterns)):
        greatest = max(greatest, patterns[c] & np.int32(0x7FFFFFFF))
    return greatest


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "nnan"})
def fold(scores, patterns, start, pool, keys, counts, floors, bins, grid, sums):
    """Add a block of scores (rows, tile) of the columns from `start` on to sums and pools.

    patterns: the scores' bits as int32; keys (tails, rows, room) int64; counts (tails, rows); floors (tails, rows)
    float32; bins (tails, rows, N_BINS); grid (rows, 2): least score of the bins, and bins for each unit; sums (rows,
    3): Σ score, Σ score², Σ |score|.
    """
    n_rows, n = scores.shape
    n_tails = keys.shape[0]
    n_groups = n // GROUP
    high = np.empty(n_groups, np.float32)
    low = np.empty(n_groups, np.float32)
    hits = np.empty(n + 1, np.int32)
    for r in range(n_rows):
        line = scores[r]
        if _greatest(patterns[r]) >= INFINITE:
            sums[r] = np.inf  # the row is refused when the sums are read
            continue
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
            most = least = line[g * GROUP]
            for c in range(g * GROUP + 1, (g + 1) * GROUP):
                most, least = max(most, line[c]), min(least, line[c])
            high[g], low[g] = most, least
        if counts[0, r] == 0:
            _lay_grid(line, grid[r], bins[:, r])
            for tail in range(n_tails):
                floors[tail, r] = max(floors[tail, r], _floor(bins[tail, r], pool, grid[r], tail))
                bins[tail, r] = 0
        for tail in range(n_tails):
            extremes = high if tail == 0 else low
            pool_state = (keys[tail, r], counts[tail, r], floors[tail, r], bins[tail, r])
            counts[tail, r], floor = _admit(line, start, tail, extremes, hits, pool, *pool_state, grid[r])
            floors[tail, r] = max(floor, _floor(bins[tail, r], pool, grid[r], tail))


@njit(nogil=True, cache=True, inline="always")
def _bin(x, grid):
    """The bin of an unsigned score; scores outside the grid go to its end bins."""
    return min(max(np.int64((np.float64(x) - grid[0]) * grid[1]), 0), N_BINS - 1)


@njit(nogil=True, cache=True)
def _lay_grid(line, grid, bins):
    """Choose a row's bins between the extremes of its first block, and count that block into both tails."""
    least, most = np.float64(line.min()), np.float64(line.max())
    grid[0] = least
    grid[1] = (N_BINS - 1) / (most - least) if most > least else 0.0
    for c in range(len(line)):
        bins[0, _bin(line[c], grid)] += 1
    for tail in range(1, len(bins)):
        bins[tail] = bins[0]


@njit(nogil=True, cache=True)
def _floor(bins, pool, grid, tail):
    """A signed score that at least `pool` of the counted ones reach: the edge one bin beyond them."""
    met = 0
    for step in range(N_BINS):
        at = N_BINS - 1 - step if tail == 0 else step
        met += bins[at]
        if met >= pool:
            if step == N_BINS - 1 or grid[1] == 0:
                return np.float32(-np.inf)
            edge = at - 1 if tail == 0 else at + 2
            score = np.float32(grid[0] + edge / grid[1])
            return score if tail == 0 else -score
    return np.float32(-np.inf)


@njit(nogil=True, cache=True)
def _admit(line, start, tail, extremes, hits, pool, keys, n, floor, bins, grid):
    """Add every signed score at or above the floor to one row's pool; returns its new size and floor.

    `hits` is room for the columns of the block that reach the floor. They are gathered without branches, which the
    processor would mispredict.
    """
    sign = np.float32(1) if tail == 0 else np.float32(-1)
    n_groups, n_hits = len(extremes), 0
    for g in range(n_groups):
        if sign * extremes[g] >= floor:
            for c in range(g * GROUP, (g + 1) * GROUP):
                hits[n_hits] = c
                n_hits += sign * line[c] >= floor
    for c in range(n_groups * GROUP, len(line)):  # the last columns, fewer than a group
        hits[n_hits] = c
        n_hits += sign * line[c] >= floor
    for at in range(n_hits):
        x = line[hits[at]]
        if sign * x >= floor:  # the floor may have risen
            keys[n] = _key(sign * x, start + hits[at])
            bins[_bin(x, grid)] += 1
            n += 1
            if n == len(keys):
                floor = max(floor, keep_best(keys, n, pool, floor))
                n = pool
                bins[:] = 0
                for i in range(n):
                    bins[_bin(sign * _score(keys[i]), grid)] += 1
    return n, floor


@njit(nogil=True, cache=True)
def keep_best(keys, n, pool, floor):
    """Move the best `pool` of the first `n` keys to the front, in no order; returns their least score.

    At least `pool` of them reach `floor`; the others are dropped first. Scores are counted into equal bins between
    their extremes, and only the bin with the `pool`-th best has to be sorted.
    """
    least, n_above = _key(floor, 0xFFFFFFFF), 0
    for i in range(n):
        key = keys[i]
        keys[n_above] = key
        n_above += key >= least
    n = n_above
    low = np.float64(_score(keys[:n].min()))
    span = np.float64(_score(keys[:n].max())) - low
    scale = (N_BINS - 1) / span if span > 0 else 0.0
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
        at = np.int64((_score(key) - low) * scale)
        if at > edge:
            keys[kept] = key
            kept += 1
        elif at == edge:
            boundary[met] = key
            met += 1
    boundary.sort()
    while kept < pool:
        met -= 1
        keys[kept] = boundary[met]
        kept += 1
    return _score(boundary[met])


@njit(nogil=True, cache=True)
def moments(keys):
    """Mean and sample standard deviation of every row's scores, float64."""
    n_rows, n = keys.shape
    mean, deviation = np.zeros(n_rows), np.zeros(n_rows)
    for r in range(n_rows):
        total = 0.0
        for i in range(n):
            total += _score(keys[r, i])
        mean[r] = total / n
        squares = 0.0
        for i in range(n):
            squares += (_score(keys[r, i]) - mean[r]) ** 2
        deviation[r] = np.sqrt(squares / (n - 1)) if n > 1 else 0.0
    return mean, deviation


@njit(nogil=True, cache=True)
def beyond(keys, mean, deviation, threshold):
    """The rows and keys whose z-score is above the threshold, by row, greatest key first; none for rows of equal
    scores."""
    rows, found = [np.int64(0) for _ in range(0)], [np.int64(0) for _ in range(0)]
    for r in range(keys.shape[0]):
        if deviation[r] > 0:
            first = len(found)
            for i in range(keys.shape[1]):
                if (np.float64(_score(keys[r, i])) - mean[r]) / deviation[r] > threshold:
                    found.append(keys[r, i])
                    rows.append(np.int64(r))
            found[first:] = sorted(found[first:], reverse=True)
    return np.array(rows, dtype=np.int64), np.array(found, dtype=np.int64)


@njit(nogil=True, cache=True)
def columns_of(keys):
    """The columns of keys (rows, pool), int32."""
    columns = np.empty(keys.shape, np.int32)
    for r in range(keys.shape[0]):
        for i in range(keys.shape[1]):
            columns[r, i] = np.int64(0xFFFFFFFF) - (keys[r, i] & np.int64(0xFFFFFFFF))
    return columns


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "nnan"})
def score_again(rows, tile, start, columns, sign, keys):
    """Replace the scores in `keys` by float32 products of `rows` with those of their columns that are in the tile.

    Returns the greatest change of a score in each row.
    """
    change = np.zeros(rows.shape[0], np.float32)
    for r in range(rows.shape[0]):
        row = rows[r]
        for i in range(columns.shape[1]):
            at = columns[r, i] - start
            if 0 <= at < tile.shape[0]:
                column, score = tile[at], np.float32(0)
                for d in range(len(row)):
                    score += row[d] * column[d]
                score *= sign
                change[r] = max(change[r], abs(score - _score(keys[r, i])))
                keys[r, i] = _key(score, columns[r, i])
    return change


@njit(nogil=True, cache=True)
def least_score(keys):
    """The least score of every row of keys."""
    least = np.empty(keys.shape[0], np.float32)
    for r in range(keys.shape[0]):
        least[r] = _score(keys[r].min())
    return least


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
def trim(keys, counts, floors, pool):
    """The best `pool` keys of every row, in no order: (rows, pool) int64. Every row has seen `pool` columns or more."""
    for r in range(keys.shape[0]):
        keep_best(keys[r], counts[r], pool, floors[r])
    return keys[:, :pool].copy()
