"""Sparse activations in Zarr: a group for each block of a corpus's rows, CSR by feature, all layers one after another.

    activations/<recipe>/rows-<start>-<stop>/indptr   (n_layers, d_transcoder + 1) where each feature's entries begin
                                             gap      steps from one active position to the next, from the block's first
                                             value    activations, float32

A shard of features is one slice of each. Compressed, an entry takes about five bytes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from interp.activation_kernels import append, from_gaps, gaps
from interp.activations.encoding import Active
from interp.sparse import FeatureTokens
from storage.arrays import open_whole, read_slice
from storage.store import Store, whole_folder

ENTRIES_PER_CHUNK = 1 << 18
"""1 MB of activations: a shard of a large model's block reads little more than its own."""

REMEDY = "remove the folder of this block of rows and run again"

COMPRESSION = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle")


class Block(NamedTuple):
    """Rows `start` to `stop` of a corpus, as one task of the pass takes them."""

    start: int
    stop: int


def row_blocks(n_rows: int, n_pos: int, positions: int) -> list[Block]:
    """Rows in blocks of about so many positions."""
    step = max(1, positions // n_pos)
    return [Block(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def block_path(store: Store, recipe: str, block: Block) -> Path:
    return store.activations(recipe) / f"rows-{block.start}-{block.stop}"


def write_block(path: Path, layers: Sequence[Active], n_counted: int) -> None:
    """Write a block whole. `n_counted`: positions that count, active or not. The positions in `layers` are used up."""
    starts = np.cumsum([0, *(len(layer.token) for layer in layers)])
    indptr = np.stack([layer.indptr + start for layer, start in zip(layers, starts, strict=False)])
    for layer in layers:
        gaps(layer.indptr, layer.token, layer.token)
    with whole_folder(path) as partial:
        group = zarr.create_group(partial, attributes={"n_counted": n_counted})
        _write(group, "indptr", indptr, (1, indptr.shape[1]))
        for name, arrays in (("gap", [a.token for a in layers]), ("value", [a.value for a in layers])):
            joined = np.concatenate(arrays)
            _write(group, name, joined, (max(1, min(len(joined), ENTRIES_PER_CHUNK)),))


def _write(group: zarr.Group, name: str, data: np.ndarray, chunks: tuple[int, ...]) -> None:
    config: Any = {"write_empty_chunks": True}  # so that a missing chunk is always damage
    group.create_array(name, data=data, chunks=chunks, compressors=COMPRESSION, config=config)


def n_counted(store: Store, recipe: str, blocks: Sequence[Block]) -> int:
    """Positions that count in some blocks."""
    return sum(zarr.open_group(block_path(store, recipe, block), mode="r").attrs["n_counted"] for block in blocks)  # pyright: ignore


class FeatureSlice:
    """A range of one layer's features in one block, opened for reading."""

    def __init__(self, path: Path, layer: int, start: int, stop: int) -> None:
        self.path = path
        array = open_whole(path / "indptr", layer, layer + 1, REMEDY)
        try:
            self.indptr = np.asarray(array[layer, start : stop + 1])
        except (ValueError, OSError, RuntimeError):
            self.indptr = read_slice(array, layer, layer + 1, REMEDY)[0, start : stop + 1]

    def read(self, low: int, high: int, first_position: int) -> FeatureTokens:
        """Features `low` to `high`, counted from the range's first; positions counted from `first_position`."""
        indptr = self.indptr[low : high + 1]
        begin, end = int(indptr[0]), int(indptr[-1])
        step, value = (
            read_slice(open_whole(self.path / name, begin, end, REMEDY), begin, end, REMEDY)
            for name in ("gap", "value")
        )
        indptr, position = indptr - begin, np.empty(len(step), np.int64)
        from_gaps(indptr, step, first_position, position)
        return FeatureTokens(indptr, position, value)


def joined(slices: Sequence[FeatureSlice], low: int, high: int, first_positions: Sequence[int]) -> FeatureTokens:
    """Features `low` to `high` of consecutive blocks, as one list. Memory: 12 bytes an entry and one block's slice."""
    counts = np.sum([np.diff(part.indptr[low : high + 1]) for part in slices], axis=0, dtype=np.int64)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    position, value = np.empty(indptr[-1], np.int64), np.empty(indptr[-1], np.float32)
    place = indptr[:-1].copy()
    for part, first in zip(slices, first_positions, strict=True):
        found = part.read(low, high, first)
        append(place, found.indptr, found.token, found.value, position, value)
    return FeatureTokens(indptr, position, value)
