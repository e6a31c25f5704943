"""The DuckDB catalog: short connections for one writer or several readers, and a versioned schema.

Connections for longer reading open the copy made by `storage.catalog.published` instead.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import NamedTuple

import duckdb

from storage.catalog.contribution_edges import add_contribution_edges
from storage.catalog.tables import TABLES, VIEWS
from storage.checksums import DamagedError, check_file
from storage.hashing import short_hash
from storage.parquet import READ_PARTS, read_table
from storage.store import whole_file

SCHEMA_VERSION = 20
"""Bump with every change of `storage.catalog.tables`."""

LOCK_PATIENCE_S = 60.0
"""Seconds that a connection waits for one in another process to close."""

WRITER_MEMORY = "1GB"
"""DuckDB's memory limit while loading; beyond it, DuckDB uses the disk. Its default is most of the machine's memory."""

OWN_TABLES = (
    "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER)",
    "CREATE TABLE IF NOT EXISTS loaded (subject VARCHAR, stage VARCHAR, recipe VARCHAR)",
    "CREATE TABLE IF NOT EXISTS loaded_parts (table_name VARCHAR, selected VARCHAR, recipe VARCHAR)",
)
"""Internal tables: the catalog's version, the recipe that each stage has loaded, and the parts it came from."""


_DAMAGED = ("Corrupt database file", "not a valid DuckDB database", "Could not read enough bytes")
"""Words in DuckDB's errors about damaged files."""


class RunOf(NamedTuple):
    """A run, and the checkpoint and corpus that it is about."""

    run_id: str
    checkpoint_id: str
    corpus_id: str | None = None
    """None: failures on all corpora are replaced."""


class CatalogBusyError(ValueError):
    """Another process has the catalog open."""


@contextmanager
def open_catalog(path: Path, *, write: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """A short connection to the catalog; a writing one is a transaction and creates the catalog if needed.

    A writing connection migrates a catalog of an earlier version, in the same transaction; a reading one does not.

    Raises:
        ValueError: there is no catalog to read, or a newer version of the software wrote it.
        CatalogBusyError: another process did not close it within `LOCK_PATIENCE_S`.
    """
    if not path.is_file():
        if not write:
            raise ValueError(f"no catalog at {path}; has a run finished in this store?")
        _create(path)
    connection = connect(path, write=write)
    try:
        with damage_named(path):
            version = checked_version(connection, path)
            if not write:
                yield connection
                return
            connection.execute("BEGIN")
            if version < SCHEMA_VERSION:
                bring_forward(connection)
            yield connection
            connection.execute("COMMIT")
    finally:
        connection.close()


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """A context in which DuckDB's errors about damaged files become a `DamagedError` for the catalog at `path`.

    Raises:
        DamagedError: the checksum of a block does not match, or the file is too short.
    """
    try:
        yield
    except duckdb.Error as error:
        if not is_damage(error):
            raise
        raise DamagedError(path, first_line(error)) from None


def is_damage(error: duckdb.Error) -> bool:
    """Whether an error of DuckDB means damage: it checks the checksum of each block that it reads."""
    return any(words in str(error) for words in _DAMAGED)


def check_database(path: Path, patience_s: float = LOCK_PATIENCE_S) -> None:
    """Open a catalog, count the rows of every table and read all their blocks.

    Raises:
        DamagedError: it is damaged.
        ValueError: it is not a catalog, or a newer version of the software wrote it.
        CatalogBusyError: another process was still writing after `patience_s`.
    """
    with connect(path, write=False, patience_s=patience_s) as connection, damage_named(path):
        checked_version(connection, path)
        tables = connection.execute("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall()
        for (table,) in tables:
            connection.execute(f"SELECT count(*), sum(hash({table})) FROM {table}").fetchall()


def check_catalog(path: Path) -> None:
    """Refuse a catalog that this version cannot write, before anything else is done."""
    if path.is_file():
        with open_catalog(path):
            pass


def connect(path: Path, *, write: bool, patience_s: float = LOCK_PATIENCE_S) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB file, waiting while it is being written elsewhere.

    Raises:
        DamagedError: it is not a DuckDB file, or damaged.
        ValueError: a newer DuckDB wrote it.
        CatalogBusyError: it was still being written after `patience_s`; for a writer, also: still being read.
    """
    give_up = time.monotonic() + patience_s
    while True:
        try:
            bound = {"memory_limit": WRITER_MEMORY} if write else {}
            config: dict[str, str | bool | int | float | list[str]] = {"autoinstall_known_extensions": "false", **bound}
            return duckdb.connect(path, read_only=not write, config=config)
        except duckdb.Error as error:
            # the second is for a thread that wants to read while another thread of the process writes
            if not any(words in str(error) for words in ("Could not set lock", "different configuration")):
                if is_damage(error):
                    raise DamagedError(path, first_line(error)) from None
                raise ValueError(f"{path}: not a readable DuckDB catalog ({first_line(error)})") from None
            if time.monotonic() > give_up:
                raise CatalogBusyError(f"{path} is open in another process ({first_line(error)})") from None
            time.sleep(min(0.2, patience_s))


def quoted(path: Path) -> str:
    """A path as an SQL literal, where DuckDB takes no parameter."""
    return "'" + str(path).replace("'", "''") + "'"


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).splitlines()[0][:300]


def checked_version(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    """The schema version of a catalog.

    Raises:
        ValueError: it is not a catalog, or a newer version of the software wrote it.
    """
    known = connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'schema_version'").fetchone()
    row = connection.execute("SELECT max(version) FROM schema_version").fetchone() if known else None
    if row is None or row[0] is None:
        raise ValueError(f"{path} is not a Circuit Insights catalog")
    version = int(row[0])
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {version}, this version supports {SCHEMA_VERSION}; update Circuit Insights"
        )
    return version


def bring_forward(connection: duckdb.DuckDBPyConnection) -> None:
    """Migrate a catalog of an earlier version, or an empty file, to the current schema. New columns are null in its
    rows.

    So far, tables and columns have only been added. Version 6 fills `corpora.corpora` of corpora that consist of
    several, and version 20 `contribution_edges`.
    """
    for name in VIEWS:
        connection.execute(f"DROP VIEW IF EXISTS {name}")
    for ddl in OWN_TABLES:
        connection.execute(ddl)
    for table in TABLES.values():
        connection.execute(table.ddl)
        query = "SELECT column_name FROM duckdb_columns() WHERE table_name = ?"
        present = {name for (name,) in connection.execute(query, [table.name]).fetchall()}
        for column in table.columns:
            if column.name not in present:
                connection.execute(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {column.type}")
    _fill_corpora(connection)
    add_contribution_edges(connection)
    for name, (_, query) in VIEWS.items():
        connection.execute(f"CREATE VIEW {name} AS {query}")
    connection.execute("DELETE FROM schema_version")
    connection.execute("INSERT INTO schema_version VALUES (?)", [SCHEMA_VERSION])


def _fill_corpora(connection: duckdb.DuckDBPyConnection) -> None:
    """Record the parts of corpora that consist of several: their name joins the parts' names, and their id is the hash
    of the parts' ids."""
    rows = connection.execute("SELECT corpus_id, name FROM corpora WHERE sha256 <> corpus_id").fetchall()
    query = "SELECT corpus_id, name FROM corpora WHERE sha256 = corpus_id AND corpora IS NULL"
    for joined_id, joined_name in connection.execute(query).fetchall():
        named = [[corpus_id for corpus_id, name in rows if name == part] for part in joined_name.split(" + ")]
        for corpora in product(*named):
            if short_hash(corpora=corpora) == joined_id:
                connection.execute("UPDATE corpora SET corpora = ? WHERE corpus_id = ?", [list(corpora), joined_id])


def _create(path: Path) -> None:
    """Create a catalog under a temporary name and rename it, so that a killed run leaves no unfinished one."""
    with whole_file(path) as partial, duckdb.connect(partial) as connection:
        bring_forward(connection)
        connection.execute("CHECKPOINT")  # closing would do it too, but would not report a full disk


def loaded_subject(checkpoint_id: str, corpus_id: str | None = None) -> str:
    """The value of `loaded.subject`: a checkpoint, and the corpus if the stage reads one."""
    return checkpoint_id if corpus_id is None else f"{checkpoint_id} {corpus_id}"


def loaded_recipe(path: Path, subject: str, stage: str) -> str | None:
    """The recipe of a stage's output that is loaded for a checkpoint or corpus."""
    if not path.is_file():
        return None
    with open_catalog(path) as connection:
        query = "SELECT recipe FROM loaded WHERE subject = ? AND stage = ?"
        row = connection.execute(query, [subject, stage]).fetchone()
    return row[0] if row else None


def has_text(path: Path, corpus_id: str) -> bool | None:
    """Whether the catalog has the text around a corpus's samples; None: no samples, or loaded by an earlier version."""
    with open_catalog(path) as connection:
        row = connection.execute("SELECT has_text FROM corpora WHERE corpus_id = ?", [corpus_id]).fetchone()
    return row[0] if row else None


def mark_loaded(connection: duckdb.DuckDBPyConnection, subject: str, stage: str, recipe: str) -> None:
    """Record that a recipe's output of a stage is loaded for a checkpoint or corpus."""
    connection.execute("DELETE FROM loaded WHERE subject = ? AND stage = ?", [subject, stage])
    connection.execute("INSERT INTO loaded VALUES (?, ?, ?)", [subject, stage, recipe])


def replace_rows(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    where: Mapping[str, object],
    parts: Sequence[Path],
    run_id: str | None = None,
) -> None:
    """Replace the rows that `where` selects (None: where it is null) by the rows of some parts, and check the key.

    The columns in `where` get its values, since parts that several checkpoints share do not have them; so does
    `run_id`, in tables with that column. Other columns that parts lack are null.

    Raises:
        ValueError: two rows share a key.
        DamagedError: a part is missing or damaged.
    """
    condition = " AND ".join(f"{name} IS NOT DISTINCT FROM ?" for name in where)
    connection.execute(f"DELETE FROM {table} WHERE {condition}", list(where.values()))
    if parts:
        filled = {**where, **({} if run_id is None else {"run_id": run_id})}
        types = {column.name: column.type for column in TABLES[table].columns}
        columns = ", ".join(f"CAST(? AS {types[name]}) AS {name}" for name in filled)
        query = f"SELECT * REPLACE ({columns}) FROM {READ_PARTS}"
        for part in parts:
            check_file(part)
        files = [str(part) for part in parts]
        try:
            connection.execute(f"INSERT INTO {table} BY NAME {query}", [*filled.values(), files])
        except duckdb.Error:
            for part in parts:
                read_table(part)  # its error names a damaged part
            raise
    check_key(connection, table)
    if "run_id" not in where:
        _note_parts(connection, table, where, parts)


def replace_failures(
    connection: duckdb.DuckDBPyConnection,
    stage: str,
    run: RunOf,
    parts: Sequence[Path],
) -> None:
    """Replace the failures of a stage for a checkpoint by those of the current run."""
    of_runs = "SELECT run_id FROM runs WHERE checkpoint_id = ?"
    parameters = [stage, run.checkpoint_id]
    if run.corpus_id is not None:
        of_runs, parameters = f"{of_runs} AND corpus_id = ?", [*parameters, run.corpus_id]
    connection.execute(f"DELETE FROM failures WHERE stage = ? AND run_id IN ({of_runs})", parameters)
    replace_rows(connection, "failures", {"run_id": run.run_id, "stage": stage}, parts, run.run_id)


def note_recipes(
    connection: duckdb.DuckDBPyConnection, kind: str, where: Mapping[str, object], recipes: Sequence[str]
) -> None:
    """Record for `vacuum` which recipes have files other than parts; `kind` is their folder in the store."""
    selected = [kind, json.dumps(where, sort_keys=True)]
    connection.execute("DELETE FROM loaded_parts WHERE table_name = ? AND selected = ?", selected)
    for recipe in sorted(set(recipes)):
        connection.execute("INSERT INTO loaded_parts VALUES (?, ?, ?)", [*selected, recipe])


def _note_parts(
    connection: duckdb.DuckDBPyConnection, table: str, where: Mapping[str, object], parts: Sequence[Path]
) -> None:
    """Record the recipes of the parts that rows came from, so that `vacuum` keeps them."""
    recipes = {folder.name for part in parts for folder in part.parents if folder.parent.name == table}
    note_recipes(connection, table, where, sorted(recipes))


def insert_row(connection: duckdb.DuckDBPyConnection, table: str, row: Mapping[str, object]) -> None:
    """Insert one row, replacing the one with its key."""
    key = TABLES[table].key
    condition = " AND ".join(f"{name} IS NOT DISTINCT FROM ?" for name in key)
    connection.execute(f"DELETE FROM {table} WHERE {condition}", [row[name] for name in key])
    names, places = ", ".join(row), ", ".join("?" for _ in row)
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", list(row.values()))


class CorpusRow(NamedTuple):
    """A row of the table `corpora`, without `has_text`."""

    corpus_id: str
    name: str
    n_sequences: int
    n_pos: int
    n_tokens: int
    n_held_out_sequences: int
    n_held_out_tokens: int
    sha256: str
    corpora: tuple[str, ...] | None = None
    """Ids of the corpora that were read one after the other, in order, if this one consists of several."""


def put_corpus(connection: duckdb.DuckDBPyConnection, row: CorpusRow) -> None:
    """Insert a corpus, or replace its row; `has_text` is not changed."""
    query = "SELECT has_text FROM corpora WHERE corpus_id = ?"
    known = connection.execute(query, [row.corpus_id]).fetchone()
    corpora = None if row.corpora is None else list(row.corpora)
    has_text = None if known is None else known[0]
    insert_row(connection, "corpora", {**row._asdict(), "corpora": corpora, "has_text": has_text})


def check_key(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    """Refuse two rows of a table with the same key.

    Raises:
        ValueError: names the table and the key.
    """
    key = ", ".join(TABLES[table].key)
    query = f"SELECT {key} FROM {table} GROUP BY {key} HAVING count(*) > 1 LIMIT 1"
    twice = connection.execute(query).fetchone()
    if twice is not None:
        raise ValueError(f"{table}: two rows with the key ({key}) = {twice}")
