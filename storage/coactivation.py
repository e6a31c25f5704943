"""Co-activation matrices in Zarr: three for each pair of layers, with one writer for each tile of two shards.

coactivation/<recipe>/<LL>-<LL>/sum_product          (source, target) Σ a_i a_j
                                sum_source_active    Σ 1(a_j > 0) a_i
                                n_coactive           number of tokens at which both are active
                                tiles/<source>-<target>    written last: without it a tile is unfinished
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zarr
from jaxtyping import Float64
from zarr.codecs import BloscCodec

from storage.arrays import (
    WHOLE,
    damaged_chunk,
    has_checksums,
    open_array,
    read_attributes,
    stamp_metadata,
    with_checksum,
)
from storage.checksums import READ_ERRORS, DamagedError
from storage.store import Store, whole_file, whole_folder

ARRAYS = {"sum_product": "float32", "sum_source_active": "float32", "n_coactive": "uint32"}


class Matrices(NamedTuple):
    """The matrices of a pair of layers."""

    path: Path
    shard_size: int

    @property
    def name(self) -> str:
        """The name of the pair's folder: source layer and target layer."""
        return self.path.name

    def receipt(self, source: int, target: int) -> Path:
        """The file that marks a tile as finished."""
        return self.path / "tiles" / f"{source}-{target}"

    def has(self, source: int, target: int) -> bool:
        """Whether the tile that begins with these features is finished."""
        return self.receipt(source, target).exists()

    def chunk(self, name: str, source: int, target: int) -> Path:
        """The file of a tile in one of the arrays."""
        return self.path.joinpath(name, "c", str(source // self.shard_size), str(target // self.shard_size))

    def write(self, source: int, target: int, sums: Float64[np.ndarray, "sources targets 3"]) -> None:
        """Write a tile, and its receipt once it is on the disk."""
        for at, (name, dtype) in enumerate(ARRAYS.items()):
            read_attributes(self.path / name)
            array = zarr.open_array(self.path / name, mode="r+").with_config(WHOLE)
            values = sums[:, :, at].astype(dtype)
            array[source : source + values.shape[0], target : target + values.shape[1]] = values
            with self.chunk(name, source, target).open("rb") as file:
                os.fsync(file.fileno())
        with whole_file(self.receipt(source, target)) as partial:
            partial.touch()

    def read(self, name: str, source: slice, target: slice) -> Float64[np.ndarray, "sources targets"]:
        """Read a tile of one matrix.

        Raises:
            DamagedError: it is missing or damaged.
        """
        file = self.chunk(name, source.start, target.start)
        if not self.has(source.start, target.start) or not file.is_file():
            raise DamagedError(file, "missing")
        array = open_array(self.path / name)
        try:
            return np.asarray(array[source, target]).astype(np.float64)
        except READ_ERRORS as error:
            raise damaged_chunk(array, [file], error) from None


def check_tiles(array: Path) -> bool:
    """Read every finished tile of one of a pair's arrays; returns whether its chunks have checksums.

    Raises:
        DamagedError: a tile is missing or damaged.
    """
    opened = open_array(array)
    size, end = opened.chunks[0], opened.shape[0]
    found = Matrices(array.parent, size)
    for receipt in sorted((array.parent / "tiles").iterdir()):
        source, target = map(int, receipt.name.split("-"))
        found.read(array.name, slice(source, min(source + size, end)), slice(target, min(target + size, end)))
    return has_checksums(opened)


def matrices(store: Store, recipe: str, source: int, target: int, shard_size: int) -> Matrices:
    """The matrices of a pair of layers, whether they exist or not."""
    return Matrices(store.coactivation(recipe) / f"{source:02d}-{target:02d}", shard_size)


def make_matrices(found: Matrices, n_features: int) -> None:
    """Create the empty arrays of a pair of layers. Only one process may do so, before any tile is written."""
    if found.path.exists():
        return
    chunk = min(found.shard_size, n_features)
    with whole_folder(found.path) as partial:
        group = zarr.create_group(partial)
        for name, dtype in ARRAYS.items():
            group.create_array(
                name,
                shape=(n_features, n_features),
                chunks=(chunk, chunk),
                dtype=dtype,
                compressors=with_checksum(BloscCodec(cname="zstd", clevel=1, shuffle="shuffle")),
                config=WHOLE,
            )
        stamp_metadata(partial)
        (partial / "tiles").mkdir()
