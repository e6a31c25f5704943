"""Every table of the catalog as a Parquet file."""

from pathlib import Path

import duckdb

from storage.catalog.database import quoted
from storage.catalog.tables import TABLES
from storage.store import whole_file


def export_tables(connection: duckdb.DuckDBPyConnection, folder: Path) -> list[Path]:
    """Write each table whole to FOLDER/TABLE.parquet, in the place of what was there."""
    paths = [folder / f"{name}.parquet" for name in TABLES]
    for table, path in zip(TABLES, paths, strict=True):
        with whole_file(path) as partial:
            connection.execute(f"COPY {table} TO {quoted(partial)} (FORMAT parquet, COMPRESSION zstd)")
    return paths
