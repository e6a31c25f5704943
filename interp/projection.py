"""Project many vectors on many others and keep outliers by z-score, without keeping all the scores.

The scores of a block of rows against a tile of columns are one matrix product. While they are still in the cache they
are added to running statistics and to a pool of the largest scores of each tail, so memory is that of the pools. A pool
entry is one integer that orders by score and then by the smaller column index, which makes the result independent of
how rows and columns were tiled.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from interp.kernels.selection import N_BINS, beyond, columns_of, fold, least_score, moments, score_again, trim
from interp.precision import wide
from interp.transfers import ahead, to_device

ZScoreMode = Literal["paper", "full"]
Tiles = Callable[[], Iterator[tuple[int, Float[Tensor, "tile d_model"]]]]
"""Gives the columns as (index of the first, block of them), in order; called again for every pass."""

ROW_BLOCK = 512
GPU_COLUMNS = 32_768
SCREEN_MARGIN = 32
"""Smallest number of entries by which a screened pool is larger than the pool wanted."""

POOL_ROOM = 3
"""Room for this many pools of candidates before the best pool is selected from them."""


class Arithmetic(NamedTuple):
    """How products are computed. Results differ by rounding at most."""

    device: str
    """A torch device: `cpu`, `cuda`, `cuda:1`, `mps`."""
    screen: bool
    """Whether candidates are found in bfloat16 first; see `project`, and `Screen` of encoders."""
    dtype: torch.dtype = torch.float32
    """Format of the model's weights wherever the model is run."""


FLOAT32 = Arithmetic("cpu", screen=False)
"""Float32 on the CPU, without a screen."""


class Outliers(NamedTuple):
    """Scores of one tail that are outliers, ordered by row, then strongest first, then column index."""

    row: Int64[np.ndarray, " n"]
    column: Int64[np.ndarray, " n"]
    score: Float32[np.ndarray, " n"]
    z_score: Float64[np.ndarray, " n"]


NO_OUTLIERS = Outliers(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0))


class Projection(NamedTuple):
    """The results for some rows: their scores against all columns, reduced."""

    positive: Outliers
    negative: Outliers
    absolute_sum: Float64[np.ndarray, " rows"]
    """Σ|score| over all columns, the denominator of relative contributions."""


class OutlierRule(NamedTuple):
    """Which scores of a row are outliers.

    A z-score is computed with the mean and sample standard deviation of the tail's `pool` strongest scores (`paper`) or
    of all scores (`full`). In either mode only the pool is searched, so there are at most `pool` outliers for each row
    and tail. Rows of equal scores have none.
    """

    mode: ZScoreMode
    pool: int
    threshold: float
    """Least |z-score| of an outlier."""
    negative: bool = True
    """Whether the lower tail is searched as well; otherwise it is empty."""


def project(
    rows: Float32[Tensor, "rows d_model"],
    tiles: Tiles,
    n_columns: int,
    rule: OutlierRule,
    *,
    screen: bool = False,
    tensors: bool = False,
) -> Projection:
    """Score every row against every column and keep the outliers of both tails.

    `screen` finds the pools by products in bfloat16 and scores them again in float32: the same outliers, several times
    as fast on processors with bfloat16 arithmetic. It works on the CPU and in `paper` mode only; the means and
    deviations of `full` mode need every score in float32. `tensors` selects by tensor operations instead of compiled
    loops, which is always so if `rows` is on another device.

    Memory: two pools of `(POOL_ROOM + 1) · pool` entries of 8 bytes for each row, 2 kB for each row for the bins of the
    pools, one tile of columns, one block of scores; on a GPU pools of `pool` entries, twice `GPU_COLUMNS` columns (the
    next ones are copied ahead), and 28 bytes for each of their scores.

    Raises:
        OverflowError: with the index of the first row whose scores, or their squares, exceed float32.
    """
    tensors = tensors or rows.device.type != "cpu"
    screen = screen and rule.mode == "paper" and not tensors
    tails = (0, 1) if rule.negative else (0,)
    pool = min(rule.pool, n_columns)
    screened_pool = min(n_columns, pool + max(SCREEN_MARGIN, pool // 4)) if screen else pool
    pools = (_TensorPools if tensors else _CompiledPools)(len(rows), len(tails), screened_pool)
    block = max(1, len(rows)) if tensors else ROW_BLOCK
    left = rows.bfloat16() if screen else rows
    room = left.new_empty(0)
    groups = _grouped(tiles, GPU_COLUMNS) if tensors else ((start, [tile]) for start, tile in tiles())
    for start, block_of_columns in ahead(groups, partial(_joined, rows.device, left.dtype), rows.device):
        columns = block_of_columns.T
        if room.numel() < block * columns.shape[1]:
            room = left.new_empty(block * columns.shape[1])  # reused for every block, so that memory is not fragmented
        for at in range(0, len(rows), block):
            part = left[at : at + block]
            scores = torch.mm(part, columns, out=room[: len(part) * columns.shape[1]].view(len(part), -1))
            pools.fold(at, start, scores.float())
    overflowing = np.nonzero(~np.isfinite(pools.sums).all(1))[0]
    if len(overflowing):
        raise OverflowError(int(overflowing[0]))
    kept = [pools.best(tail) for tail in tails]
    doubtful = np.zeros(len(rows), bool)
    if screen:
        kept, doubtful = _scored_again(rows, tiles, kept, pool)
        doubtful &= screened_pool < n_columns
    spreads = [_spread(kept[tail], pools.sums, n_columns, tail, rule.mode) for tail in tails]
    outliers = [_outliers(kept[tail], tail, *spreads[tail], rule.threshold) for tail in tails]
    found = Projection(outliers[0], outliers[1] if rule.negative else NO_OUTLIERS, pools.sums[:, 2].copy())
    if doubtful.any():
        exact = project(rows[doubtful], tiles, n_columns, rule)
        found = _replaced(found, np.nonzero(doubtful)[0], exact)
    return found


def _scored_again(
    rows: Float32[Tensor, "rows d_model"],
    tiles: Tiles,
    kept: list[Int64[np.ndarray, "rows screened"]],
    pool: int,
) -> tuple[list[Int64[np.ndarray, "rows pool"]], Bool[np.ndarray, " rows"]]:
    """Score screened pools again in float32 and reduce them to `pool` entries; also tell which rows may miss a column.

    A column outside the screened pool has at most the pool's least score in bfloat16. The pool is complete if its
    float32 limit is above that by more than twice the greatest change of any of its own scores.
    """
    columns = [columns_of(keys) for keys in kept]
    edges = [least_score(keys) for keys in kept]
    changes = np.zeros((len(kept), len(rows)), np.float32)
    for start, tile in tiles():
        block = tile.float().numpy()
        for tail in range(len(kept)):
            change = score_again(rows.numpy(), block, start, columns[tail], np.float32(1 - 2 * tail), kept[tail])
            changes[tail] = np.maximum(changes[tail], change)
    sizes, floors = np.full(len(rows), kept[0].shape[1]), np.full(len(rows), -np.inf, np.float32)
    final = [trim(keys, sizes, floors, pool) for keys in kept]
    doubtful = [
        least_score(keys) <= edge + 2 * change for keys, edge, change in zip(final, edges, changes, strict=True)
    ]
    return final, np.logical_or.reduce(doubtful)


def _outliers(
    keys: Int64[np.ndarray, "rows pool"],
    tail: int,
    mean: Float64[np.ndarray, " rows"],
    deviation: Float64[np.ndarray, " rows"],
    threshold: float,
) -> Outliers:
    """The pool entries of one tail beyond the threshold."""
    sign = 1 if tail == 0 else -1
    row, found = beyond(keys, mean, deviation, threshold)
    score, column = unpack_keys(found)
    z = (score.astype(np.float64) - mean[row]) / deviation[row]
    return Outliers(row, column, np.float32(sign) * score, sign * z)


def joined(parts: Sequence[Projection]) -> Projection:
    """The projections of consecutive blocks of rows as one."""
    firsts = np.cumsum([0, *(len(part.absolute_sum) for part in parts)])
    tails = []
    for own in ([part.positive for part in parts], [part.negative for part in parts]):
        moved = [one._replace(row=one.row + first) for one, first in zip(own, firsts, strict=False)]
        tails.append(Outliers(*(np.concatenate(column) for column in zip(*moved, strict=True))))
    return Projection(tails[0], tails[1], np.concatenate([part.absolute_sum for part in parts]))


def _replaced(found: Projection, rows: Int64[np.ndarray, " m"], exact: Projection) -> Projection:
    """`found` with the outliers of some rows replaced by those in `exact`."""
    tails = []
    for old, new in zip(found[:2], exact[:2], strict=True):
        stays = ~np.isin(old.row, rows)
        joined = Outliers(
            *(np.concatenate([a[stays], b]) for a, b in zip(old, new._replace(row=rows[new.row]), strict=True))
        )
        order = np.argsort(joined.row, kind="stable")
        tails.append(Outliers(*(column[order] for column in joined)))
    return Projection(tails[0], tails[1], found.absolute_sum)


class _CompiledPools:
    """Running sums and the strongest scores of each tail of every row, updated by compiled loops on the CPU."""

    def __init__(self, n_rows: int, n_tails: int, pool: int) -> None:
        self.pool = pool
        self.sums = np.zeros((n_rows, 3))  # Σ score, Σ score², Σ |score|
        self.keys = np.empty((n_tails, n_rows, POOL_ROOM * pool), np.int64)
        self.counts = np.zeros((n_tails, n_rows), np.int64)
        self.floors = np.full((n_tails, n_rows), -np.inf, np.float32)
        self.bins = np.zeros((n_tails, n_rows, N_BINS), np.int32)
        self.grid = np.zeros((n_rows, 2))

    def fold(self, at: int, start: int, scores: Float32[Tensor, "block tile"]) -> None:
        """Add the scores of the rows from `at` on against the columns from `start` on."""
        rows = slice(at, at + len(scores))
        keys, counts, floors, bins = (array[:, rows] for array in (self.keys, self.counts, self.floors, self.bins))
        block, sums = scores.numpy(), self.sums[rows]
        fold(block, block.view(np.int32), start, self.pool, keys, counts, floors, bins, self.grid[rows], sums)

    def best(self, tail: int) -> Int64[np.ndarray, "rows pool"]:
        """The final pool of one tail, in no order."""
        return trim(self.keys[tail], self.counts[tail], self.floors[tail], self.pool)


class _TensorPools:
    """Running sums and strongest scores, updated by tensor operations on a GPU."""

    def __init__(self, n_rows: int, n_tails: int, pool: int) -> None:
        self.pool, self.n_tails = pool, n_tails
        self.sums = np.zeros((n_rows, 3))
        self.blocks: dict[int, list[Tensor]] = {}

    def fold(self, at: int, start: int, scores: Float32[Tensor, "block tile"]) -> None:
        """Add the scores of the rows from `at` on against the columns from `start` on."""
        exact = scores.to(wide(scores.device))
        sums = [exact.sum(1), exact.square().sum(1), exact.abs().sum(1)]
        self.sums[at : at + len(scores)] += torch.stack(sums, 1).cpu().numpy()
        earlier = self.blocks.get(at)
        best = []
        for tail, signed in enumerate((scores, -scores)[: self.n_tails]):
            keys = torch_keys(signed, start)
            keys = keys if earlier is None else torch.cat([earlier[tail], keys], 1)
            best.append(keys.topk(min(self.pool, keys.shape[1]), dim=1, sorted=False).values)
        self.blocks[at] = best

    def best(self, tail: int) -> Int64[np.ndarray, "rows pool"]:
        """The final pool of one tail, in no order."""
        return torch.cat([self.blocks[at][tail] for at in sorted(self.blocks)]).cpu().numpy()


def _spread(
    keys: Int64[np.ndarray, "rows pool"], sums: Float64[np.ndarray, "rows 3"], n: int, tail: int, mode: ZScoreMode
) -> tuple[Float64[np.ndarray, " rows"], Float64[np.ndarray, " rows"]]:
    """Mean and sample standard deviation for the z-scores of a tail, for scores signed towards it."""
    if mode == "paper":
        return moments(keys)
    mean = (1 if tail == 0 else -1) * sums[:, 0] / n
    deviation = np.sqrt(np.maximum(sums[:, 1] - n * mean**2, 0) / max(n - 1, 1))
    deviation[deviation < 1e-6 * np.abs(mean)] = 0  # the rounding error that is left when all are equal
    return mean, deviation


def _grouped(tiles: Tiles, width: int) -> Iterator[tuple[int, list[Tensor]]]:
    """Neighbouring tiles in groups of at most `width` columns, since a GPU needs larger products."""
    start, held = 0, []
    for at, tile in tiles():
        if held and sum(map(len, held)) + len(tile) > width:
            yield start, held
            held = []
        start = at if not held else start
        held.append(tile)
    if held:
        yield start, held


def _joined(device: torch.device, dtype: torch.dtype, group: tuple[int, list[Tensor]]) -> tuple[int, Tensor]:
    """The tiles of a group, as one array on a device."""
    start, tiles = group
    there = [to_device(tile, device).to(dtype) for tile in tiles]
    return start, there[0] if len(there) == 1 else torch.cat(there)


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
