"""Sparse activations in Zarr: a group for each block of a corpus's rows, CSR by feature, with all layers concatenated.

    activations/<recipe>/rows-<start>-<stop>/indptr   (n_layers, d_transcoder + 1) where each feature's entries begin
                                            token    positions, counted through the block row after row
                                            value    activations, float32
    activations/<recipe>/packed-<start>-<stop>/…      the same compressed, with `gap` in place of `token`

A shard of features is one slice of each array. When it is written, a block has one uncompressed file for each array,
from which many tasks read small slices cheaply. Blocks that are kept for longer are packed: positions are stored as
differences, and everything is compressed, to about five bytes an entry.
"""

import math
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from interp.activations.encoding import Active
from interp.kernels.entries import append, from_gaps, gaps
from interp.sparse import FeatureTokens
from storage.arrays import WHOLE, open_array, open_whole, read_attributes, read_slice, stamp_metadata, with_checksum
from storage.checksums import READ_ERRORS, DamagedError, one_line
from storage.store import Store, remove_folder, whole_folder

ENTRIES_PER_CHUNK = 1 << 20
"""Entries in a chunk of a packed block: 4 MB of activations, so that a shard reads little more than its own entries,
and there are few files."""

COMPRESSION = BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle")


class Block(NamedTuple):
    """Rows `start` to `stop` of a corpus, the unit of work of a task."""

    start: int
    stop: int


def row_blocks(n_rows: int, n_pos: int, positions: int) -> list[Block]:
    """Divide rows into blocks of about `positions` positions."""
    step = max(1, positions // n_pos)
    return [Block(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def block_path(store: Store, recipe: str, block: Block, *, packed: bool = False) -> Path:
    """The folder of a block of rows."""
    return store.activations(recipe) / f"{'packed' if packed else 'rows'}-{block.start}-{block.stop}"


def has_block(store: Store, recipe: str, block: Block) -> bool:
    """Whether a block is in the store, in either form."""
    return any(block_path(store, recipe, block, packed=packed).exists() for packed in (False, True))


def write_block(path: Path, layers: Sequence[Active], n_counted: int) -> None:
    """Write a block completely or not at all. `n_counted`: number of positions that count, active or not."""
    starts = np.cumsum([0, *(len(layer.token) for layer in layers)])
    arrays = {
        "indptr": np.stack([layer.indptr + start for layer, start in zip(layers, starts, strict=False)]),
        "token": np.concatenate([layer.token for layer in layers]),
        "value": np.concatenate([layer.value for layer in layers]),
    }
    attributes = {"n_counted": n_counted, "crc32": {name: zlib.crc32(array.data) for name, array in arrays.items()}}
    with whole_folder(path) as partial:
        group = zarr.create_group(partial, attributes=attributes)
        for name, array in arrays.items():
            chunks = tuple(max(1, n) for n in array.shape)
            group.create_array(name, shape=array.shape, dtype=array.dtype, chunks=chunks, compressors=None)
            if array.size:
                chunk = _only_chunk(partial / name, array.ndim)
                chunk.parent.mkdir(parents=True)
                chunk.write_bytes(array.data)
        stamp_metadata(partial)


def _only_chunk(path: Path, n_dims: int) -> Path:
    """The file in which Zarr stores an uncompressed array with one chunk."""
    return path.joinpath("c", *["0"] * n_dims)


def pack_block(store: Store, recipe: str, block: Block) -> None:
    """Replace a plain block by a compressed one."""
    plain, packed = (block_path(store, recipe, block, packed=is_packed) for is_packed in (False, True))
    if not packed.exists():
        opened = open_block(store, recipe, block)
        assert isinstance(opened, PlainBlock)
        indptr = opened.indptr.read(0, opened.indptr.size).reshape(opened.indptr.shape)
        step, value = (array.read(0, array.size) for array in (opened.token, opened.value))
        for layer in indptr:
            gaps(layer, step, step)
        with whole_folder(packed) as partial:
            group = zarr.create_group(partial, attributes={"n_counted": opened.n_counted})
            codecs = with_checksum(COMPRESSION)
            group.create_array("indptr", data=indptr, chunks=(1, indptr.shape[1]), compressors=codecs, config=WHOLE)
            for name, array in (("gap", step), ("value", value)):
                chunks = (max(1, min(len(array), ENTRIES_PER_CHUNK)),)
                group.create_array(name, data=array, chunks=chunks, compressors=codecs, config=WHOLE)
            stamp_metadata(partial)
    remove_folder(plain)


class PlainArray(NamedTuple):
    """An array stored as one file of plain values."""

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read a range of its values, counted through all its rows."""
        values = np.zeros(0, self.dtype)
        if stop > start:
            values = np.fromfile(self.file, self.dtype, stop - start, offset=start * self.dtype.itemsize)
        if len(values) != stop - start:
            raise DamagedError(self.file, f"it ends after {len(values)} values, expected {stop - start}")
        return values

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class PlainBlock(NamedTuple):
    """An uncompressed block, opened for reading."""

    n_counted: int
    indptr: PlainArray
    token: PlainArray
    value: PlainArray

    def features(self, layer: int, start: int, stop: int) -> FeatureTokens:
        """The activations of a range of a layer's features, with positions counted through the block."""
        first = layer * self.indptr.shape[1]
        indptr = self.indptr.read(first + start, first + stop + 1)
        low, high = int(indptr[0]), int(indptr[-1])
        return FeatureTokens(indptr - low, self.token.read(low, high), self.value.read(low, high))


class PackedBlock(NamedTuple):
    """A compressed block, opened for reading."""

    n_counted: int
    path: Path

    def features(self, layer: int, start: int, stop: int) -> FeatureTokens:
        """The activations of a range of a layer's features, with positions counted through the block."""
        indptr = self._read("indptr", layer, layer + 1)[0][start : stop + 1]
        low, high = int(indptr[0]), int(indptr[-1])
        step, value = (self._read(name, low, high) for name in ("gap", "value"))
        token = np.empty_like(step)
        from_gaps(indptr - low, step, 0, token)
        return FeatureTokens(indptr - low, token, value)

    def _read(self, name: str, start: int, stop: int) -> np.ndarray:
        path = self.path / name
        return read_slice(open_whole(path, start, stop), path, start, stop)


def open_block(store: Store, recipe: str, block: Block) -> PlainBlock | PackedBlock:
    """Open a block in either form.

    Raises:
        DamagedError: it is damaged.
    """
    plain, packed = (block_path(store, recipe, block, packed=is_packed) for is_packed in (False, True))
    if plain.exists():
        return _open_plain(plain, _times(plain))
    return PackedBlock(_n_counted(packed), packed)


def _n_counted(path: Path) -> int:
    found = read_attributes(path).get("n_counted")
    if not isinstance(found, int):
        raise DamagedError(path / "zarr.json", f"n_counted is {found!r}, expected a number")
    return found


def check_plain(path: Path) -> None:
    """Check a plain block.

    Raises:
        DamagedError: it is damaged.
    """
    _open_plain(path, _times(path))


def _times(path: Path) -> tuple[int, ...]:
    return tuple(file.stat().st_mtime_ns for file in sorted(path.glob("*/c/*")))


@lru_cache(maxsize=4096)
def _open_plain(path: Path, _written: tuple[int, ...]) -> PlainBlock:
    """A block whose files have been read once and match the checksums with which they were written."""
    arrays, checksums = {}, read_attributes(path).get("crc32")
    if not isinstance(checksums, dict):
        raise DamagedError(path / "zarr.json", "crc32 is missing")
    try:
        for name, expected in checksums.items():
            array = open_array(path / name)
            arrays[name] = PlainArray(_only_chunk(path / name, array.ndim), array.dtype, array.shape)
            if not arrays[name].file.is_file() and array.size:
                raise DamagedError(arrays[name].file, "missing")
            found = zlib.crc32(arrays[name].read(0, array.size).data)
            if found != expected:
                raise DamagedError(arrays[name].file, f"its CRC-32 is {found:08x}, expected {expected:08x}")
        return PlainBlock(_n_counted(path), **arrays)
    except DamagedError:
        raise
    except READ_ERRORS as error:
        raise DamagedError(path, f"unreadable block ({one_line(error)})") from None


def joined(blocks: Sequence[FeatureTokens], first_positions: Sequence[int]) -> FeatureTokens:
    """A range of features over consecutive blocks, as one list. Memory: 12 bytes for each entry."""
    counts = np.sum([np.diff(block.indptr) for block in blocks], axis=0, dtype=np.int64)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    position, value = np.empty(indptr[-1], np.int64), np.empty(indptr[-1], np.float32)
    place = indptr[:-1].copy()
    for block, first in zip(blocks, first_positions, strict=True):
        append(place, block.indptr, block.token, first, block.value, position, value)
    return FeatureTokens(indptr, position, value)
