"""Parquet files of a store: written whole with a checksum in the footer, compared when they are read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from storage.checksums import NAME, READ_ERRORS, UNSTAMPED, DamagedError, check_file, one_line, stamp
from storage.store import whole_file

READ_PARTS = "read_parquet(?, union_by_name = true, hive_partitioning = false)"
"""Parts as a table of DuckDB, which otherwise takes a folder `key=value` above a store for a column of every part."""


def write_table(path: Path, table: pa.Table, row_group_size: int | None = None) -> None:
    """Write a table whole."""
    with whole_file(path) as partial:
        with pq.ParquetWriter(partial, table.schema, compression="zstd") as writer:
            writer.write_table(table, row_group_size)
            writer.add_key_value_metadata({NAME: UNSTAMPED})
        stamp(partial)


def read_table(path: Path, columns: Sequence[str] | None = None, filters: object = None) -> pa.Table:
    """Some columns of a file, or those of its rows that the filters choose.

    Raises:
        DamagedError: it is missing or damaged.
    """
    with reading(path):
        return pq.read_table(
            path,
            columns=None if columns is None else list(columns),
            filters=filters,
            partitioning=None,  # pyright: ignore[reportArgumentType]
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Compare a file with its checksum; what its reader raises within is told as damage.

    Raises:
        DamagedError: it is missing or damaged.
    """
    check_file(path)
    try:
        yield
    except (pa.ArrowException, *READ_ERRORS) as error:
        raise DamagedError(path, f"damaged part ({one_line(error)})") from None
