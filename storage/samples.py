"""Samples of features' activations: by shard in the order of drawing, and by row for steps that read the corpus.

parts/samples/<recipe>/layer-<LL>/features-<start>-<stop>.parquet            by feature
parts/attributions/<recipe>/samples-<LL>-<start>-<stop>.safetensors          by row, until all are attributed
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64
from safetensors import safe_open
from safetensors.numpy import save_file

from interp.sparse import ranks
from storage.catalog.parts import read_parts
from storage.checksums import NAME, UNSTAMPED, check_file, stamp
from storage.store import ShardKey, Store, whole_file


def sample_ids(feature: Int64[np.ndarray, " n"], sample: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """A single number for each sample of a layer, in order of feature, then sample."""
    return (feature << 32) + sample


class ShardSamples(NamedTuple):
    """The samples of a shard, feature after feature."""

    feature: Int64[np.ndarray, " n"]
    sample: Int64[np.ndarray, " n"]
    sequence: Int64[np.ndarray, " n"]
    """Row of the corpus."""
    position: Int64[np.ndarray, " n"]
    activation: Float32[np.ndarray, " n"]
    quantile_bin: Int64[np.ndarray, " n"]
    """Bin of the quantile sample; −1 for samples outside it."""

    def where(self, chosen: Bool[np.ndarray, " n"] | Int64[np.ndarray, " m"]) -> "ShardSamples":
        """The samples selected by a mask or by indices."""
        return ShardSamples(*(column[chosen] for column in self))

    @classmethod
    def none(cls) -> "ShardSamples":
        """No samples."""
        whole, real = np.zeros(0, np.int64), np.zeros(0, np.float32)
        return cls(whole, whole, whole, whole, real, whole)

    @property
    def quantile(self) -> "ShardSamples":
        """The quantile sample only."""
        return self.where(self.quantile_bin >= 0)

    def first(self, n: int | None) -> "ShardSamples":
        """The first `n` samples drawn for every feature's quantile sample, or all if there are fewer; None: all.

        Samples are numbered in the order of drawing, so the first `n` are a quantile sample of size `n`.
        """
        return self if n is None else self.where(self.sample < n)

    def top(self, n: int) -> "ShardSamples":
        """The `n` greatest activations of every feature, in descending order; among equals, the earlier first."""
        place = self.sequence, self.position
        order = np.lexsort((place[1], place[0], -self.activation, self.feature))
        ordered = self.where(order)
        return ordered.where(ranks(ordered.feature) < n)


def read_samples(store: Store, key: ShardKey) -> ShardSamples:
    """Read the samples of a shard; `key` has the recipe of the activations stage."""
    table = read_parts([store.part("samples", key)], list(ShardSamples._fields))
    columns = [table[name].fill_null(-1).to_numpy() for name in ShardSamples._fields]
    return ShardSamples(*(column.astype(np.float32 if column.dtype.kind == "f" else np.int64) for column in columns))


def samples_by_row_path(store: Store, recipe: str, key: ShardKey) -> Path:
    """The file with a shard's samples in order of rows; `recipe` is that of the attribution which reads it."""
    return store.parts("attributions", recipe) / f"samples-{key.layer:02d}-{key.start}-{key.stop}.safetensors"


def write_samples_by_row(path: Path, samples: ShardSamples, marked: Bool[np.ndarray, " n"], n_rows: int) -> None:
    """Write samples in order of their rows, with a mark each, so that those of a few rows are one slice.

    Within a row they keep their order.
    """
    order = np.argsort(samples.sequence, kind="stable")
    ordered = samples.where(order)
    arrays = {name: np.ascontiguousarray(column) for name, column in ordered._asdict().items()}
    arrays["marked"] = marked[order]
    arrays["first_of_row"] = np.searchsorted(ordered.sequence, np.arange(n_rows + 1))
    with whole_file(path) as partial:
        save_file(arrays, partial, {NAME: UNSTAMPED})
        stamp(partial)


def read_samples_of_rows(path: Path, start: int, stop: int) -> tuple[ShardSamples, Bool[np.ndarray, " n"]]:
    """Read the samples of rows `start` to `stop` and their marks, and no others.

    Raises:
        DamagedError: the file has changed since it was written.
    """
    check_file(path)
    with safe_open(path, "numpy") as file:
        first = file.get_slice("first_of_row")[start : stop + 1]
        low, high = int(first[0]), int(first[-1])
        if low == high:
            return ShardSamples.none(), np.zeros(0, bool)
        *columns, marked = (file.get_slice(name)[low:high] for name in (*ShardSamples._fields, "marked"))
    return ShardSamples(*columns), marked
