"""Every table of the catalog as a Parquet file, and a manifest that lists them."""

from pathlib import Path
from typing import NamedTuple

import duckdb

from storage.catalog.database import SCHEMA_VERSION, quoted
from storage.catalog.tables import TABLES
from storage.hashing import file_sha256
from storage.store import whole_file, write_json

MANIFEST = "manifest.json"


class Exported(NamedTuple):
    """A table that was written."""

    table: str
    path: Path
    n_rows: int


def export_tables(connection: duckdb.DuckDBPyConnection, folder: Path) -> list[Exported]:
    """Write each table completely to FOLDER/TABLE.parquet, replacing an earlier file."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for table in TABLES:
        path = folder / f"{table}.parquet"
        with whole_file(path) as partial:
            connection.execute(f"COPY {table} TO {quoted(partial)} (FORMAT parquet, COMPRESSION zstd)")
        n_rows = connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]
        found.append(Exported(table, path, n_rows))
    return found


def write_manifest(exported: list[Exported], folder: Path) -> Path:
    """Write FOLDER/manifest.json: the version of the schema, and for each file its table, rows, columns and SHA-256."""
    tables = {
        one.table: {
            "file": one.path.name,
            "n_rows": one.n_rows,
            "columns": {column.name: column.type for column in TABLES[one.table].columns},
            "sha256": file_sha256(one.path),
        }
        for one in exported
    }
    write_json(folder / MANIFEST, {"schema_version": SCHEMA_VERSION, "tables": tables})
    return folder / MANIFEST
