"""Parquet parts: the rows of one shard for one table of the catalog."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from storage.catalog.tables import TABLES
from storage.parquet import read_table, write_table


def write_part(path: Path, table: str, columns: Mapping[str, object], n_rows: int) -> None:
    """Write a part by columns. A single value is repeated in all rows; missing columns are null.

    Raises:
        KeyError: a column that the table does not have.
    """
    schema = TABLES[table].arrow
    unknown = set(columns) - set(schema.names)
    if unknown:
        raise KeyError(f"{table} has no columns {sorted(unknown)}")
    arrays = []
    for field in schema:
        value = columns.get(field.name)
        if value is None or isinstance(value, str | int | float):
            arrays.append(pa.repeat(pa.scalar(value, field.type), n_rows))
        else:
            arrays.append(pa.array(value, field.type))
    write_table(path, pa.Table.from_arrays(arrays, schema=schema))


def columns_of(names: Sequence[str], rows: Sequence[Sequence[object]]) -> dict[str, Sequence[object]]:
    """Rows of values as columns by name, in the form for `write_part`."""
    columns = zip(*rows, strict=True) if rows else ((),) * len(names)
    return dict(zip(names, columns, strict=True))


class Failure(NamedTuple):
    """Why a stage has no result for a feature."""

    feature: int
    reason: str
    detail: str


def write_failures(path: Path, stage: str, layer: int, failures: Sequence[Failure]) -> None:
    """Write a shard's part of the table `failures`."""
    columns = columns_of(Failure._fields, failures)
    write_part(path, "failures", {"stage": stage, "layer": layer, **columns}, len(failures))


def read_parts(paths: Sequence[Path], columns: list[str]) -> pa.Table:
    """Read some columns of several parts, one after the other.

    Raises:
        DamagedError: a part is damaged or missing.
    """
    return pa.concat_tables([read_table(path, columns) for path in paths])
