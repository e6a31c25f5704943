"""Attributed samples by blocks of a corpus's rows, until they are collected by feature.

    parts/attributions/<recipe>/rows-<start>-<stop>.parquet
                                qk-<start>-<stop>.parquet

A row is one sample, with its contributors as lists. Rows are in order of layer, feature and sample, in groups small
enough that a few features of one layer can be read without the rest. The second file has the pairs of sources that made
the samples' heads attend where they did, one pair a row.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64

from interp.circuitlens.contributors import Contributors
from storage.parquet import read_table, write_table
from storage.store import ShardKey, Store

ROWS_PER_GROUP = 512

SAMPLE_COLUMNS = ("layer", "feature", "sample", "sequence", "position", "activation", "total")
CONTRIBUTOR_COLUMNS = ("kind", "source_layer", "unit", "source_position", "score", "share")


QK_SCHEMA = pa.schema(
    [
        ("layer", pa.int16()),
        ("feature", pa.int32()),
        ("sample", pa.int32()),
        ("head_layer", pa.int16()),
        ("head", pa.int32()),
        ("query_position", pa.int32()),
        ("key_position", pa.int32()),
        ("head_score", pa.float64()),
        ("query_kind", pa.int8()),
        ("query_layer", pa.int16()),
        ("query_index", pa.int32()),
        ("query_source_position", pa.int32()),
        ("key_kind", pa.int8()),
        ("key_layer", pa.int16()),
        ("key_index", pa.int32()),
        ("key_source_position", pa.int32()),
        ("score", pa.float64()),
    ]
)
"""A block's pairs with the catalog's columns; kinds are indices in `KINDS`, and −1 means that a kind has no such
value."""


class Attributed(NamedTuple):
    """Attributed samples: where each fired, its contributors, and its effect."""

    layer: Int64[np.ndarray, " n"]
    feature: Int64[np.ndarray, " n"]
    sample: Int64[np.ndarray, " n"]
    sequence: Int64[np.ndarray, " n"]
    """Number of the corpus's row."""
    position: Int64[np.ndarray, " n"]
    activation: Float32[np.ndarray, " n"]
    total: Float32[np.ndarray, " n"]
    """The sum of all contributions, which equals the activation up to rounding."""
    contributors: Contributors
    """Contributors; `target` is the index of the sample."""
    effect: Float32[np.ndarray, "n n_after d_model"]
    """What the sample adds to the final norm's output, at its token and those of the model's continuation; NaN where
    the continuation is shorter. n_after is 0 if effects are not computed."""

    def at(self, index: Int64[np.ndarray, " m"]) -> "Attributed":
        """The samples with these indices, in that order."""
        place = np.full(len(self.layer), -1)
        place[index] = np.arange(len(index))
        keep = place[self.contributors.target] >= 0
        kept = Contributors(*(column[keep] for column in self.contributors))
        contributors = Contributors.joined([kept._replace(target=place[kept.target])])
        columns = [column[index] for column in self[: len(SAMPLE_COLUMNS)]]
        return Attributed(*[*columns, contributors, self.effect[index]])

    @classmethod
    def joined(cls, parts: "Sequence[Attributed]") -> "Attributed":
        """The samples of several sequences or blocks, in order of layer, feature and sample."""
        starts = np.cumsum([0, *(len(part.layer) for part in parts)])
        contributors = [
            part.contributors._replace(target=part.contributors.target + start)
            for part, start in zip(parts, starts, strict=False)
        ]
        columns = [
            np.concatenate(columns) for columns in zip(*(part[: len(SAMPLE_COLUMNS)] for part in parts), strict=True)
        ]
        effect = np.concatenate([part.effect for part in parts])
        whole = cls(*[*columns, Contributors.joined(contributors), effect])
        return whole.at(np.lexsort((whole.sample, whole.feature, whole.layer)))


def attributions_path(store: Store, recipe: str, start: int, stop: int) -> Path:
    """The file with the attributed samples of a block of rows."""
    return store.parts("attributions", recipe) / f"rows-{start}-{stop}.parquet"


def write_attributed(path: Path, found: Attributed) -> None:
    """Write a block completely or not at all."""
    columns: dict[str, pa.Array] = {name: pa.array(getattr(found, name)) for name in SAMPLE_COLUMNS}
    target, kind, layer, unit, position, score, share = found.contributors
    offsets = pa.array(np.searchsorted(target, np.arange(len(found.layer) + 1)).astype(np.int32))
    narrow = (kind.astype(np.int8), layer.astype(np.int16), unit.astype(np.int32), position.astype(np.int32))
    for name, values in zip(CONTRIBUTOR_COLUMNS, (*narrow, score, share), strict=True):
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(values))
    n_after, d_model = found.effect.shape[1:]
    if n_after:
        columns["effect"] = pa.FixedSizeListArray.from_arrays(pa.array(found.effect.ravel()), n_after * d_model)
    table = pa.table(columns).replace_schema_metadata({"n_after": str(n_after), "d_model": str(d_model)})
    write_table(path, table, ROWS_PER_GROUP)


def read_attributed(paths: Sequence[Path], key: ShardKey) -> Attributed:
    """Read the attributed samples of a shard, from all blocks.

    Raises:
        DamagedError: a block is damaged or missing.
    """
    wanted = [("layer", "=", key.layer), ("feature", ">=", key.start), ("feature", "<", key.stop)]
    return Attributed.joined([_attributed(read_table(path, filters=wanted).combine_chunks()) for path in paths])


def _attributed(table: pa.Table) -> Attributed:
    samples = [table[name].to_numpy() for name in SAMPLE_COLUMNS]
    lists = [table[name].combine_chunks() for name in CONTRIBUTOR_COLUMNS]
    lengths = lists[0].value_lengths().to_numpy(zero_copy_only=False)
    target = np.repeat(np.arange(table.num_rows), lengths.astype(np.int64))
    values = [array.flatten().to_numpy(zero_copy_only=False) for array in lists]
    contributors = Contributors(target, *(value.astype(np.int64) for value in values[:4]), *values[4:])
    n_after, d_model = (int(table.schema.metadata[name]) for name in (b"n_after", b"d_model"))
    effect = np.zeros(0, np.float32)
    if n_after:
        effect = table["effect"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return Attributed(*[*samples, contributors, effect.reshape(table.num_rows, n_after, d_model)])


def qk_path(store: Store, recipe: str, start: int, stop: int) -> Path:
    """The file with the pairs of a block of rows."""
    return store.parts("attributions", recipe) / f"qk-{start}-{stop}.parquet"


def write_qk(path: Path, parts: Sequence[pa.Table]) -> None:
    """Write a block's pairs completely or not at all, in order of layer and feature."""
    table = pa.concat_tables([QK_SCHEMA.empty_table(), *parts])
    write_table(path, table.sort_by([(name, "ascending") for name in ("layer", "feature")]), ROWS_PER_GROUP)


def read_qk(paths: Sequence[Path], key: ShardKey) -> pa.Table:
    """Read the pairs of a shard from all blocks, by feature, sample and head, the strongest first.

    Raises:
        DamagedError: a block is damaged or missing.
    """
    wanted = [("layer", "=", key.layer), ("feature", ">=", key.start), ("feature", "<", key.stop)]
    table = pa.concat_tables([QK_SCHEMA.empty_table(), *(read_table(path, filters=wanted) for path in paths)])
    by = [table[name].to_numpy() for name in ("key_position", "head", "head_layer", "sample", "feature")]
    return table.take(np.lexsort([-np.abs(table["score"].to_numpy()), *by]))
