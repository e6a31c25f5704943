"""Parquet files of a store: written completely or not at all with a checksum in the footer, which is checked on
reading."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from storage.checksums import NAME, READ_ERRORS, UNSTAMPED, DamagedError, check_file, one_line, stamp
from storage.store import whole_file

READ_PARTS = "read_parquet(?, union_by_name = true, hive_partitioning = false)"
"""Parts as a table of DuckDB. Without hive_partitioning=false, a folder `key=value` above a store would become a
column."""


def write_table(path: Path, table: pa.Table, row_group_size: int | None = None) -> None:
    """Write a table completely or not at all."""
    with whole_file(path) as partial:
        with pq.ParquetWriter(partial, table.schema, compression="zstd") as writer:
            writer.write_table(table, row_group_size)
            writer.add_key_value_metadata({NAME: UNSTAMPED})
        stamp(partial)


def read_table(path: Path, columns: Sequence[str] | None = None, filters: object = None) -> pa.Table:
    """Read some columns of a file, or of those of its rows that the filters select.

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
    """Check a file's checksum; errors of its reader inside the block become errors about damage.

    Raises:
        DamagedError: it is missing or damaged.
    """
    check_file(path)
    try:
        yield
    except (pa.ArrowException, *READ_ERRORS) as error:
        raise DamagedError(path, f"damaged part ({one_line(error)})") from None
