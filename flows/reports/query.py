"""A query of the catalog, with its answer as a table, CSV, JSON or Parquet, written while rows are found."""

import csv
import json
import math
import os
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from io import TextIOBase
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from interp.display import escaped, escaped_json, visible

if TYPE_CHECKING:
    import duckdb

# The command line imports this file at its start, so slow imports are made where they are used.

ROWS = 1000
"""Rows that are fetched, and for a table laid out, at a time."""

MEMORY, SPILL = "4GB", "20GB"
"""Memory limit of a query, and limit of its temporary files."""

PATIENCE_S = 5.0
"""Seconds that a stopped query may take to end."""


class Format(StrEnum):
    """The format of an answer."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


def ask(catalog: Path, sql: str, format: Format, output: Path | None, timeout_s: float) -> None:
    """Query the catalog, read-only and without access to other files; the answer goes to a file or to standard output.

    Several statements run one after the other; in table format all their answers are written, in other formats only one
    may have an answer. In a terminal, control characters are escaped; a file or pipe gets them unchanged, except in
    tables.

    Raises:
        ValueError: there is no query, the query fails or takes longer than `timeout_s`, or the file cannot be written.
    """
    if format is Format.parquet and output is None:
        raise ValueError("sql: --format parquet needs --output FILE")
    with read_only(catalog) as connection:
        ask_of(connection, sql, format, output, timeout_s)


def ask_of(
    connection: "duckdb.DuckDBPyConnection", sql: str, format: Format, output: Path | None, timeout_s: float
) -> None:
    """Answer a query on an open connection.

    Raises:
        ValueError: as for `ask`.
    """
    import duckdb

    try:
        statements = _statements(connection, sql, format)
        with _opened(output, format) as file:
            _watched(connection, lambda: _answers(connection, statements, format, file), timeout_s)
    except duckdb.Error as error:
        raise ValueError(f"sql: {error}") from None
    except BrokenPipeError:  # the reader of the answer has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def read_only(catalog: Path) -> Iterator["duckdb.DuckDBPyConnection"]:
    """A connection to the published catalog, with limits for its queries and without access to other files.

    Raises:
        ValueError: there is no catalog, or it cannot be read.
    """
    from storage.catalog.published import open_published

    spilled = Path(tempfile.gettempdir()) / f"circuit-insights-{uuid.uuid4().hex}"  # created by DuckDB when needed
    with open_published(catalog) as connection:
        limits = f"SET memory_limit = '{MEMORY}'; SET max_temp_directory_size = '{SPILL}'"
        connection.execute(f"SET temp_directory = '{spilled}'; {limits}")
        connection.execute("SET enable_external_access = false; SET lock_configuration = true")
        yield connection


def relation(connection: "duckdb.DuckDBPyConnection", sql: str) -> "duckdb.DuckDBPyRelation":
    """The answer to a query of a connection, computed when its rows are fetched.

    Raises:
        ValueError: it is not a query with an answer, or it fails.
    """
    import duckdb

    try:
        found = connection.sql(sql)
    except duckdb.Error as error:
        raise ValueError(f"sql: {error}") from None
    if found is None:
        raise ValueError('sql: no query; expected a statement, like "SELECT * FROM layer_summary"')
    return found


def _statements(connection: "duckdb.DuckDBPyConnection", sql: str, format: Format) -> "list[duckdb.Statement]":
    from duckdb import ExpectedResultType

    statements = connection.extract_statements(sql)
    if not statements:
        raise ValueError('sql: no query; expected a statement, like "SELECT * FROM layer_summary"')
    n_answers = sum(ExpectedResultType.QUERY_RESULT in statement.expected_result_type for statement in statements)
    if format is not Format.table and n_answers > 1:
        raise ValueError(f"sql: {n_answers} statements with answers; --format {format} takes one")
    return statements


def _answers(
    connection: "duckdb.DuckDBPyConnection", statements: "list[duckdb.Statement]", format: Format, file: TextIO | Path
) -> None:
    for number, statement in enumerate(statements):
        if number and isinstance(file, TextIOBase) and format is Format.table:
            file.write("\n")
        _answer(connection, statement, format, file)


def _answer(
    connection: "duckdb.DuckDBPyConnection", statement: "duckdb.Statement", format: Format, file: TextIO | Path
) -> None:
    """Run one statement, and write its answer."""
    if isinstance(file, Path):
        _write_parquet(connection.sql(statement.query), file)
        return
    found = connection.execute(statement)
    if not found.description:
        return
    names = _distinct([column[0] for column in found.description])
    batches = iter(lambda: found.fetchmany(ROWS), [])
    if format is Format.json:
        _write_json(names, batches, file)
    elif format is Format.csv:
        _write_csv(names, batches, file)
    else:
        _write_table(names, batches, file)
    file.flush()


def _write_parquet(relation: "duckdb.DuckDBPyRelation | None", path: Path) -> None:
    if relation is None:
        return
    import pyarrow.parquet as pq

    reader = relation.to_arrow_reader(ROWS * 100)
    with pq.ParquetWriter(path, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)


def _write_json(names: list[str], batches: Iterator[list[tuple[object, ...]]], file: TextIO) -> None:
    safe = escaped_json if file.isatty() else str
    before = "["
    for row in (row for batch in batches for row in batch):
        record = dict(zip(names, map(_plain, row), strict=True))
        text = json.dumps(record, indent=1, default=str, ensure_ascii=False).replace("\n", "\n ")
        file.write(f"{before}\n {safe(text)}")
        before = ","
    file.write("[]\n" if before == "[" else "\n]\n")


def _write_csv(names: list[str], batches: Iterator[list[tuple[object, ...]]], file: TextIO) -> None:
    if not file.isatty():
        writer = csv.writer(file)
        writer.writerow(names)
        for batch in batches:
            writer.writerows(batch)
        return
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(escaped, names))
    for batch in batches:
        writer.writerows([escaped(_text(value)) for value in row] for row in batch)


def _write_table(names: list[str], batches: Iterator[list[tuple[object, ...]]], file: TextIO) -> None:
    """Columns are as wide as the first rows need; in a file or pipe they grow if later rows need more."""
    from flows.reports.tables import Columns, block

    width = os.get_terminal_size(file.fileno()).columns if file.isatty() else None
    names = [visible(name) for name in names]
    columns: Columns | None = None
    n_before = 0
    for batch in batches:
        rows = [tuple(visible(_cell(value)) for value in row) for row in batch]
        needed = Columns.of(names, rows)
        if n_before == 0:
            columns = needed if width is None else needed.folded(width)
            file.writelines(f"{line}\n" for line in (columns.head(names) if columns else ()))
        elif columns is not None and width is None:
            columns = columns.widened(needed)
        for number, row in enumerate(rows, n_before + 1):
            lines = block(names, row, number, width or 80) if columns is None else columns.lines(row)
            file.writelines(f"{line}\n" for line in lines)
        n_before += len(rows)
        file.flush()
    if n_before == 0:
        file.writelines(f"{line}\n" for line in Columns.of(names, []).head(names))


def _watched(connection: "duckdb.DuckDBPyConnection", work: Callable[[], None], timeout_s: float) -> None:
    """Work with the connection in a separate thread, so that this one can react to Ctrl-C and the time limit.

    DuckDB blocks signals while it is computing.
    """
    from concurrent.futures import Future

    done: Future[None] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        done.result(timeout_s)
    except TimeoutError:
        raise ValueError(f"sql: stopped after {timeout_s:g} s; --timeout SECONDS allows more") from None
    finally:
        if thread.is_alive():
            connection.interrupt()
            thread.join(PATIENCE_S)


@contextmanager
def _opened(output: Path | None, format: Format) -> Iterator[TextIO | Path]:
    """The destination of the answer: standard output, or a file that appears when it is complete."""
    if output is None:
        yield sys.stdout
        return
    if output.exists() and not output.is_file():  # a pipe or a device
        with output.open("w", encoding="utf-8", newline="") as file:
            yield file
        return
    partial = output.with_name(f"{output.name}.{os.getpid()}.partial")
    try:
        if format is Format.parquet:
            yield partial
        else:
            with partial.open("w", encoding="utf-8", newline="") as file:
                yield file
        partial.replace(output)
    except OSError as error:
        raise ValueError(f"--output: {output} cannot be written ({error.strerror or error})") from None
    finally:
        partial.unlink(missing_ok=True)


def _distinct(names: list[str]) -> list[str]:
    """Column names made unique (`name_1` for the second), as a record can have each only once."""
    return [name if (n := names[:at].count(name)) == 0 else f"{name}_{n}" for at, name in enumerate(names)]


def _plain(value: object) -> object:
    """A value in a type that JSON has."""
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _text(value)
