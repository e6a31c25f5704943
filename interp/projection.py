"""Project many vectors on many others and keep what stands out, without ever holding all the scores.

The scores of a block of rows against a tile of columns are one matrix product. While they are still in
the cache they are folded into running statistics and into a pool of the largest scores of each tail, so
memory is that of the pools. A pool entry is one integer that orders by score and then by the smaller
column index, which makes the result independent of how rows and columns were tiled.
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int32, Int64
from numba import njit
from torch import Tensor

ZScoreMode = Literal["paper", "full"]
Tiles = Callable[[], Iterator[tuple[int, Float[Tensor, "tile d_model"]]]]
"""Gives the columns as (index of the first, block of them), in order; called again for every pass."""

ROW_BLOCK = 256
GROUP = 16
N_BINS = 256
POOL_ROOM = 4
"""Room for so many pools of candidates before the best pool is picked out of them."""


class Outliers(NamedTuple):
    """Scores of one tail that stand out, ordered by row, then strongest first, then column index."""

    row: Int64[np.ndarray, " n"]
    column: Int64[np.ndarray, " n"]
    score: Float32[np.ndarray, " n"]
    z_score: Float64[np.ndarray, " n"]


class Projection(NamedTuple):
    """What is kept of the scores of some rows against all columns."""

    positive: Outliers
    negative: Outliers
    absolute_sum: Float64[np.ndarray, " rows"]
    """Σ|score| over all columns: what a relative contribution is relative to."""


def project(
    rows: Float32[Tensor, "rows d_model"],
    tiles: Tiles,
    n_columns: int,
    *,
    mode: ZScoreMode,
    pool: int,
    threshold: float,
) -> Projection:
    """Score every row against every column and keep the outliers of both tails.

    A z-score is taken against the mean and sample standard deviation of the tail's `pool` strongest scores
    (`paper`) or of all scores (`full`); in either mode only the pool is searched, so at most `pool` outliers
    a row and tail are found. Rows whose scores do not vary have none.

    Memory: two pools of `POOL_ROOM · pool` entries of 8 bytes a row, one tile of columns, one block of scores.
    """
    pool = min(pool, n_columns)
    pools = _Pools(len(rows), pool, n_columns, rows.device)
    for start, tile in tiles():
        columns = tile.to(rows.device, torch.float32).T
        for at in range(0, len(rows), ROW_BLOCK):
            pools.fold(at, start, rows[at : at + ROW_BLOCK] @ columns)
    return Projection(
        positive=pools.outliers(0, mode, threshold),
        negative=pools.outliers(1, mode, threshold),
        absolute_sum=pools.sums[:, 2].copy(),
    )


class _Pools:
    """Running sums and the strongest scores of each tail of every row."""

    def __init__(self, n_rows: int, pool: int, n_columns: int, device: torch.device) -> None:
        self.pool, self.n_columns = pool, n_columns
        self.sums = np.zeros((n_rows, 3))  # Σ score, Σ score², Σ |score|
        self.on_cpu = device.type == "cpu"
        if self.on_cpu:
            self.keys = np.empty((2, n_rows, POOL_ROOM * pool), np.int64)
            self.counts = np.zeros((2, n_rows), np.int64)
            self.floors = np.full((2, n_rows), -np.inf, np.float32)
        else:
            self.best: list[list[Tensor | None]] = [[None, None] for _ in range(0, n_rows, ROW_BLOCK)]

    def fold(self, at: int, start: int, scores: Float32[Tensor, "block tile"]) -> None:
        """Take in the scores of the rows from `at` on against the columns from `start` on."""
        stop = at + len(scores)
        if self.on_cpu:
            views = (self.keys[:, at:stop], self.counts[:, at:stop], self.floors[:, at:stop], self.sums[at:stop])
            _fold(scores.numpy(), start, self.pool, *views)
            return
        wide = scores.double()
        self.sums[at:stop] += torch.stack([wide.sum(1), wide.square().sum(1), wide.abs().sum(1)], 1).cpu().numpy()
        best = self.best[at // ROW_BLOCK]
        for tail, signed in enumerate((scores, -scores)):
            keys = torch_keys(signed, start)
            earlier = best[tail]
            keys = keys if earlier is None else torch.cat([earlier, keys], 1)
            best[tail] = keys.topk(min(self.pool, keys.shape[1]), dim=1).values

    def outliers(self, tail: int, mode: ZScoreMode, threshold: float) -> Outliers:
        """The pool entries of one tail beyond the threshold."""
        if self.on_cpu:
            keys = _trim(self.keys[tail], self.counts[tail], self.pool)
        else:
            keys = torch.cat([best[tail] for best in self.best]).cpu().numpy()  # pyright: ignore
        scores, columns = unpack_keys(keys)
        wide = scores.astype(np.float64)
        if mode == "paper":
            mean, deviation = wide.mean(1), _deviation(wide)
        else:
            sign = 1 if tail == 0 else -1
            n = self.n_columns
            mean = sign * self.sums[:, 0] / n
            deviation = np.sqrt(np.maximum(self.sums[:, 1] - n * mean**2, 0) / max(n - 1, 1))
            deviation[deviation < 1e-6 * np.abs(mean)] = 0  # what is left of rounding when all are equal
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where(deviation[:, None] > 0, (wide - mean[:, None]) / deviation[:, None], 0.0)
        row, place = np.nonzero(z > threshold)
        order = np.lexsort((-keys[row, place], row))
        row, place = row[order], place[order]
        sign = 1 if tail == 0 else -1
        return Outliers(row, columns[row, place], np.float32(sign) * scores[row, place], sign * z[row, place])


def _deviation(pool: Float64[np.ndarray, "rows pool"]) -> Float64[np.ndarray, " rows"]:
    return pool.std(1, ddof=1) if pool.shape[1] > 1 else np.zeros(len(pool))


def torch_keys(scores: Float32[Tensor, "rows tile"], start: int) -> Int64[Tensor, "rows tile"]:
    """Integers that order as (score, then smaller column index)."""
    bits = (scores + 0.0).view(torch.int32).long()  # + 0.0: minus zero is zero
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    column = torch.arange(start, start + scores.shape[1], device=scores.device)
    return (ordered << 32) | (0xFFFFFFFF - column)


def unpack_keys(
    keys: Int64[np.ndarray, "rows pool"],
) -> tuple[Float32[np.ndarray, "rows pool"], Int64[np.ndarray, "rows pool"]]:
    """The scores and columns of keys."""
    ordered = (keys >> 32).astype(np.int32)
    bits = np.where(ordered < 0, ordered ^ np.int32(0x7FFFFFFF), ordered)
    return bits.view(np.float32), 0xFFFFFFFF - (keys & 0xFFFFFFFF)


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "nnan"})
def _fold(scores, start, pool, keys, counts, floors, sums):  # noqa: ANN001, ANN202
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
def _admit(line, start, sign, extremes, pool, keys, n, floor):  # noqa: ANN001, ANN202
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
def _keep_best(keys, n, pool):  # noqa: ANN001, ANN202
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
def _key(x, column):  # noqa: ANN001, ANN202
    bits = np.int64(np.float32(x).view(np.int32)) if x != 0 else np.int64(0)  # minus zero is zero
    if bits < 0:
        bits ^= np.int64(0x7FFFFFFF)
    return (bits << np.int64(32)) | (np.int64(0xFFFFFFFF) - np.int64(column))


@njit(nogil=True, cache=True, inline="always")
def _score(key):  # noqa: ANN001, ANN202
    bits = key >> np.int64(32)
    if bits < 0:
        bits ^= np.int64(0x7FFFFFFF)
    return np.int32(bits).view(np.float32)


@njit(nogil=True, cache=True)
def _trim(keys, counts, pool):  # noqa: ANN001, ANN202
    """The best `pool` keys of every row, in no order. Every row has seen at least `pool` columns."""
    for r in range(keys.shape[0]):
        _keep_best(keys[r], counts[r], pool)
    return keys[:, :pool].copy()
