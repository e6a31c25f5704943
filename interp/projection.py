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
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from interp.kernels import N_BINS, beyond, fold, moments, trim

ZScoreMode = Literal["paper", "full"]
Tiles = Callable[[], Iterator[tuple[int, Float[Tensor, "tile d_model"]]]]
"""Gives the columns as (index of the first, block of them), in order; called again for every pass."""

ROW_BLOCK = 256
POOL_ROOM = 6
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
            self.bins = np.zeros((2, n_rows, N_BINS), np.int32)
            self.grid = np.zeros((n_rows, 2))
        else:
            self.best: list[list[Tensor | None]] = [[None, None] for _ in range(0, n_rows, ROW_BLOCK)]

    def fold(self, at: int, start: int, scores: Float32[Tensor, "block tile"]) -> None:
        """Take in the scores of the rows from `at` on against the columns from `start` on."""
        stop = at + len(scores)
        if self.on_cpu:
            rows = slice(at, stop)
            pools = (array[:, rows] for array in (self.keys, self.counts, self.floors, self.bins))
            fold(scores.numpy(), start, self.pool, *pools, self.grid[rows], self.sums[rows])
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
            keys = trim(self.keys[tail], self.counts[tail], self.floors[tail], self.pool)
        else:
            keys = torch.cat([best[tail] for best in self.best]).cpu().numpy()  # pyright: ignore
        sign = 1 if tail == 0 else -1
        if mode == "paper":
            mean, deviation = moments(keys)
        else:
            n = self.n_columns
            mean = sign * self.sums[:, 0] / n
            deviation = np.sqrt(np.maximum(self.sums[:, 1] - n * mean**2, 0) / max(n - 1, 1))
            deviation[deviation < 1e-6 * np.abs(mean)] = 0  # what is left of rounding when all are equal
        row, found = beyond(keys, mean, deviation, threshold)
        score, column = unpack_keys(found)
        z = (score.astype(np.float64) - mean[row]) / deviation[row]
        return Outliers(row, column, np.float32(sign) * score, sign * z)


def torch_keys(scores: Float32[Tensor, "rows tile"], start: int) -> Int64[Tensor, "rows tile"]:
    """Integers that order as (score, then smaller column index)."""
    bits = (scores + 0.0).view(torch.int32).long()  # + 0.0: minus zero is zero
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    column = torch.arange(start, start + scores.shape[1], device=scores.device)
    return (ordered << 32) | (0xFFFFFFFF - column)


def unpack_keys(keys: Int64[np.ndarray, "*n"]) -> tuple[Float32[np.ndarray, "*n"], Int64[np.ndarray, "*n"]]:
    """The scores and columns of keys."""
    ordered = (keys >> 32).astype(np.int32)
    bits = np.where(ordered < 0, ordered ^ np.int32(0x7FFFFFFF), ordered)
    return bits.view(np.float32), 0xFFFFFFFF - (keys & 0xFFFFFFFF)
