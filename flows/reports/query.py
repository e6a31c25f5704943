"""A query of the catalog, and its answer as a table, CSV, JSON or Parquet."""

import csv
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

# The command line reads this file at its start, so what takes long to import is imported where it is used.


class Format(StrEnum):
    """How an answer is written."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


def ask(catalog: Path, sql: str, format: Format, output: Path | None) -> None:
    """Ask the catalog, read-only and with no other file in reach; the answer goes to a file or to standard output.

    Raises:
        ValueError: the query fails, or the file cannot be written.
    """
    import duckdb

    from storage.catalog.published import open_published

    with open_published(catalog) as connection:
        connection.execute("SET enable_external_access = false; SET lock_configuration = true")
        try:
            result = connection.sql(sql)
            if result is None:
                return
            answer = result.to_arrow_table()
        except duckdb.Error as error:
            raise ValueError(f"sql: {error}") from None
    if format is Format.parquet and output is None:
        raise ValueError("sql: --format parquet needs --output FILE")
    try:
        _write(answer, format, output)
    except OSError as error:
        raise ValueError(f"--output: {output} cannot be written ({error.strerror})") from None


def _write(answer: Any, format: Format, output: Path | None) -> None:
    from interp.display import visible

    if format is Format.parquet:
        import pyarrow.parquet as pq

        pq.write_table(answer, output)
        return
    names, rows = _distinct(answer.column_names), zip(*(column.to_pylist() for column in answer.columns), strict=True)
    with _opened(output) as file:
        if format is Format.json:
            records = [dict(zip(names, map(_plain, row), strict=True)) for row in rows]
            json.dump(records, file, indent=1, default=str, ensure_ascii=False)
            file.write("\n")
        elif format is Format.csv:
            writer = csv.writer(file)
            writer.writerow(names)
            writer.writerows(rows)
        else:
            table = Table(*(escape(visible(name)) for name in names))
            for row in rows:
                table.add_row(*(escape(visible(_cell(value))) for value in row))
            Console(file=file).print(table)


@contextmanager
def _opened(output: Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    with output.open("w", encoding="utf-8", newline="") as file:
        yield file


def _distinct(names: list[str]) -> list[str]:
    """Column names with the second of a name called `name_1`, as a record can hold each only once."""
    return [name if (n := names[:at].count(name)) == 0 else f"{name}_{n}" for at, name in enumerate(names)]


def _plain(value: Any) -> Any:
    """A value that JSON has a word for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
