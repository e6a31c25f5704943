"""The DuckDB catalog: one writer for moments, readers for moments, schema known by version."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from storage.store import whole_file
from storage.tables import TABLES, VIEWS

SCHEMA_VERSION = 2
"""Bump with every change of `storage.tables`."""

LOCK_PATIENCE_S = 60.0
"""How long a connection waits for one in another process to close."""


class CatalogBusyError(ValueError):
    """Another process keeps the catalog open."""


@contextmanager
def open_catalog(path: Path, *, write: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """A short connection to the catalog; a writing one is a transaction and makes the catalog if needed.

    Raises:
        ValueError: there is no catalog to read, or a newer version of the software wrote it.
        CatalogBusyError: another process did not close it within `LOCK_PATIENCE_S`.
    """
    if not path.is_file():
        if not write:
            raise ValueError(f"no catalog at {path}; has a run finished in this store?")
        _create(path)
    connection = _connect(path, write)
    try:
        _check_version(connection, path)
        if not write:
            yield connection
            return
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")
    finally:
        connection.close()


def check_catalog(path: Path) -> None:
    """Refuse a catalog that this version cannot write, before anything else is done."""
    if path.is_file():
        with open_catalog(path):
            pass


def _connect(path: Path, write: bool) -> duckdb.DuckDBPyConnection:
    give_up = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            return duckdb.connect(path, read_only=not write, config={"autoinstall_known_extensions": "false"})
        except duckdb.Error as error:
            if "Could not set lock" not in str(error):
                raise ValueError(f"{path}: not a readable DuckDB catalog ({_first_line(error)})") from None
            if time.monotonic() > give_up:
                raise CatalogBusyError(f"{path} is kept open by another process ({_first_line(error)})") from None
            time.sleep(0.2)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300]


def _check_version(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    known = connection.execute("SELECT 1 FROM information_schema.tables WHERE table_name = 'schema_version'").fetchone()
    if known is None:
        raise ValueError(f"{path} is not a Circuit Insights catalog")
    row = connection.execute("SELECT max(version) FROM schema_version").fetchone()
    version = row[0] if row else None
    if version != SCHEMA_VERSION:
        newer = version is not None and version > SCHEMA_VERSION
        advice = "update Circuit Insights" if newer else "it cannot be read"
        raise ValueError(f"{path} has schema version {version}, this version knows {SCHEMA_VERSION}; {advice}")


def _create(path: Path) -> None:
    """Make a catalog beside its place and put it there: a killed run leaves none that is half made."""
    with whole_file(path) as partial, duckdb.connect(partial) as connection:
        connection.execute("CREATE TABLE schema_version (version INTEGER)")
        connection.execute(f"INSERT INTO schema_version VALUES ({SCHEMA_VERSION})")
        connection.execute("CREATE TABLE loaded (subject VARCHAR, stage VARCHAR, recipe VARCHAR)")
        for table in TABLES.values():
            connection.execute(table.ddl)
        for name, (_, query) in VIEWS.items():
            connection.execute(f"CREATE VIEW {name} AS {query}")


def loaded_recipe(path: Path, subject: str, stage: str) -> str | None:
    """Which recipe's output of a stage the catalog holds for a checkpoint or corpus."""
    if not path.is_file():
        return None
    with open_catalog(path) as connection:
        query = "SELECT recipe FROM loaded WHERE subject = ? AND stage = ?"
        row = connection.execute(query, [subject, stage]).fetchone()
    return row[0] if row else None


def mark_loaded(connection: duckdb.DuckDBPyConnection, subject: str, stage: str, recipe: str) -> None:
    connection.execute("DELETE FROM loaded WHERE subject = ? AND stage = ?", [subject, stage])
    connection.execute("INSERT INTO loaded VALUES (?, ?, ?)", [subject, stage, recipe])


def replace_rows(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    where: dict[str, Any],
    parts: Sequence[Path],
    run_id: str | None = None,
) -> None:
    """Put the rows of some parts in the place of the rows that `where` selects (None: where it is null), and check the
    key.

    `run_id` fills that column in tables that name the run, which parts cannot know.

    Raises:
        ValueError: two rows share a key.
    """
    condition = " AND ".join(f"{name} IS NOT DISTINCT FROM ?" for name in where)
    connection.execute(f"DELETE FROM {table} WHERE {condition}", list(where.values()))
    if parts:
        files = [str(part) for part in parts]
        columns = "*" if run_id is None else f"* REPLACE ('{run_id}' AS run_id)"
        connection.execute(f"INSERT INTO {table} SELECT {columns} FROM read_parquet(?)", [files])
    _check_key(connection, table)


def insert_row(connection: duckdb.DuckDBPyConnection, table: str, row: dict[str, Any]) -> None:
    """Insert one row, replacing the one with its key."""
    key = TABLES[table].key
    condition = " AND ".join(f"{name} IS NOT DISTINCT FROM ?" for name in key)
    connection.execute(f"DELETE FROM {table} WHERE {condition}", [row[name] for name in key])
    names, places = ", ".join(row), ", ".join("?" for _ in row)
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", list(row.values()))


def _check_key(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    key = ", ".join(TABLES[table].key)
    query = f"SELECT {key} FROM {table} GROUP BY {key} HAVING count(*) > 1 LIMIT 1"
    twice = connection.execute(query).fetchone()
    if twice is not None:
        raise ValueError(f"{table}: two rows with the key ({key}) = {twice}")
