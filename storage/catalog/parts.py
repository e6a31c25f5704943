"""Parquet parts: the rows that one shard contributes to one catalog table, written whole."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.catalog.tables import TABLES
from storage.parquet import read_table, write_table


def write_part(path: Path, table: str, columns: Mapping[str, Any], n_rows: int) -> None:
    """Write columns of a table; single values are repeated, columns left out are null.

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


def read_parts(paths: Sequence[Path], columns: list[str]) -> pa.Table:
    """Some columns of several parts, one after the other.

    Raises:
        DamagedError: a part is damaged or missing.
    """
    return pa.concat_tables([read_table(path, columns) for path in paths])
