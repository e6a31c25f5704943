"""The cells of a column of a .csv or .tsv file, row by row, each with the position of the next row."""

import csv
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

from storage.corpora.decompress import skip_to

MAX_EMPTY_ROWS = 2**20
"""Largest number of empty rows in succession."""


class Cell(NamedTuple):
    """A row's cell in the column that is read."""

    text: str
    row: int
    """The line of the file at which its row begins, counted from 0."""
    offset: int
    """The byte at which its row begins."""
    end: int
    """The byte at which the next row begins."""
    end_line: int


class Table(NamedTuple):
    """How to read a table."""

    name: str
    """Name of the file, for messages."""
    delimiter: str
    column: str
    max_bytes: int
    """The longest row that is read, in bytes."""
    decoded: Callable[[bytes, int], str]
    """Decodes the text of a line; gets the number of lines before it, for messages."""


class _Lines:
    """The lines of a file for csv's reader, which takes only as many as a row needs."""

    def __init__(self, table: Table, file: IO[bytes], offset: int, line: int) -> None:
        self.table, self.file, self.offset, self.line = table, file, offset, line
        self.begun = offset

    def __iter__(self) -> Iterator[str]:
        while data := self.file.readline(self.table.max_bytes + 1):
            self.offset += len(data)
            if self.offset - self.begun > self.table.max_bytes:
                raise ValueError(
                    f"corpus: {self.table.name} line {self.line + 1}: a row of more than {self.table.max_bytes} bytes; "
                    "is a quotation mark not closed?"
                )
            text = self.table.decoded(data, self.line)
            self.line += 1
            yield text


def cells(table: Table, file: IO[bytes], offset: int, line: int) -> Iterator[Cell]:
    """The cells of the column, starting at the beginning of a row. The header is always read first.

    Raises:
        ValueError: the column does not exist, a row has more or fewer cells than the header, or a row is not CSV.
    """
    csv.field_size_limit(table.max_bytes)
    lines = _Lines(table, file, 0, 0)
    rows = _rows(table, lines)
    header = next(rows, None)
    if header is None:
        raise ValueError(f"corpus: {table.name}: no header; expected the names of columns in the first line")
    at = _column(table, header[0])
    if offset > lines.offset:
        skip_to(file, offset if file.seekable() else offset - lines.offset)
        rows = _rows(table, _Lines(table, file, offset, line))
    for row, cell in rows:
        if len(row) != len(header[0]):
            where = f"corpus: {table.name} line {cell.row + 1}"
            raise ValueError(f"{where}: a row of {len(row)} cells; the header names {len(header[0])} columns")
        yield cell._replace(text=row[at])


def _rows(table: Table, lines: _Lines) -> Iterator[tuple[list[str], Cell]]:
    line, n_empty = lines.line, 0
    try:
        for row in csv.reader(iter(lines), delimiter=table.delimiter, strict=True):
            offset, lines.begun = lines.begun, lines.offset
            if row:
                n_empty = 0
                yield row, Cell("", line, offset, lines.offset, lines.line)
            elif (n_empty := n_empty + 1) > MAX_EMPTY_ROWS:
                raise ValueError(f"corpus: {table.name} line {line + 1}: more than {MAX_EMPTY_ROWS} empty lines")
            line = lines.line
    except csv.Error as error:
        raise ValueError(f"corpus: {table.name} line {line + 1}: not a row of a table ({error})") from None


def _column(table: Table, header: list[str]) -> int:
    n = header.count(table.column)
    if n == 1:
        return header.index(table.column)
    names = ", ".join(repr(name[:40]) for name in header[:12]) + ", …" * (len(header) > 12)
    found = f"{n} columns" if n else "no column"
    raise ValueError(f"corpus: {table.name} has {found} '{table.column}'; it has {names}")
