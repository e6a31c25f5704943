"""Tables for people: in a terminal folded to its width or with one row in each block, in a file or pipe complete.

Nothing is ever cut off. A table that fits is printed as it is. If it is a little too wide, its widest columns are
folded; if it is far too wide, every row becomes a block of lines `column | value`, as with psql's \\x.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

FOLDED_WIDTH = 16
"""Smallest width of a folded column; a table that needs narrower ones is printed in blocks."""

GAP = " │ "


class Table:
    """Rows with column names. Cells are plain texts, already made `visible`; a line break in a cell begins another line
    of it."""

    def __init__(self, *names: str, title: str | None = None) -> None:
        self.names = names
        self.title = title
        self.rows: list[tuple[str, ...]] = []
        self.styles: list[str] = []

    def add_row(self, *cells: str, style: str = "") -> None:
        """Add one row, with a cell for every column."""
        assert len(cells) == len(self.names)
        self.rows.append(cells)
        self.styles.append(style)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width if console.is_terminal else None
        if self.title:
            yield Text(self.title, style="italic")
        natural = Columns.of(self.names, self.rows)
        columns = natural if width is None else natural.folded(width)
        if columns is not None:
            for line in columns.head(self.names):
                yield Text(line, style="bold", no_wrap=True, overflow="ignore")
            for row, style in zip(self.rows, self.styles, strict=True):
                for line in columns.lines(row):
                    yield Text(line, style=style, no_wrap=True, overflow="ignore")
        else:
            for number, (row, style) in enumerate(zip(self.rows, self.styles, strict=True), 1):
                for line in block(self.names, row, number, options.max_width):
                    yield Text(line, style=style, no_wrap=True, overflow="ignore")
        yield Text("")


class Columns:
    """Widths of a table's columns, and which of them have numbers."""

    def __init__(self, widths: Sequence[int], is_number: Sequence[bool]) -> None:
        self.widths = list(widths)
        self.is_number = list(is_number)

    @classmethod
    def of(cls, names: Sequence[str], rows: Sequence[Sequence[str]]) -> "Columns":
        """Widths of the widest line of each column."""
        widths = [max(_width(name), *(_width(row[at]) for row in rows), 0) for at, name in enumerate(names)]
        return cls(widths, [bool(rows) and all(_is_number(row[at]) for row in rows) for at in range(len(names))])

    def widened(self, other: "Columns") -> "Columns":
        """The greater of both widths, for rows that come later; columns of numbers stay as they were."""
        return Columns(list(map(max, self.widths, other.widths)), self.is_number)

    def folded(self, width: int) -> "Columns | None":
        """Columns that fit into this many characters; None if a folded one would be too narrow to read."""
        widths = [min(own, width) for own in self.widths]
        while sum(widths) + len(GAP) * (len(widths) - 1) > width:
            widest = max(range(len(widths)), key=widths.__getitem__)
            if widths[widest] <= FOLDED_WIDTH:
                return None
            widths[widest] -= 1
        return Columns(widths, self.is_number)

    def head(self, names: Sequence[str]) -> Iterator[str]:
        """The column names, and the line under them."""
        yield from Columns(self.widths, [False] * len(names)).lines(names)
        yield "─┼─".join("─" * width for width in self.widths)

    def lines(self, row: Sequence[str]) -> Iterator[str]:
        """A row, with as many lines as its longest cell needs."""
        cells = [fold(cell, width) for cell, width in zip(row, self.widths, strict=True)]
        for parts in zip_longest(*cells, fillvalue=""):
            padded = [
                " " * (width - cell_len(part)) + part if is_number else part + " " * (width - cell_len(part))
                for part, width, is_number in zip(parts, self.widths, self.is_number, strict=True)
            ]
            yield GAP.join(padded).rstrip()


def block(names: Sequence[str], row: Sequence[str], number: int, width: int) -> Iterator[str]:
    """One row as a block: a line `name │ value` for each column, with long values folded."""
    yield f"─ row {number} " + "─" * max(0, min(width, 40) - len(f"─ row {number} "))
    margin = max(map(_width, names), default=0)
    if margin + len(GAP) + FOLDED_WIDTH > width:  # no space beside the names
        for name, cell in zip(names, row, strict=True):
            yield from fold(name, width)
            yield from (f"  {part}" for part in fold(cell, max(1, width - 2)))
        return
    for name, cell in zip(names, row, strict=True):
        for at, part in enumerate(fold(cell, width - margin - len(GAP))):
            yield f"{(name if at == 0 else '') + ' ' * (margin - (_width(name) if at == 0 else 0))}{GAP}{part}".rstrip()


def fold(text: str, width: int) -> list[str]:
    """A text in lines of at most this many cells, broken between words where possible; no character is lost."""
    lines = []
    for line in text.split("\n"):
        while cell_len(line) > width:
            at = _fits(line, width)
            blank = line.rfind(" ", 1, at)
            at = blank + 1 if blank > at // 2 else at
            lines.append(line[:at])
            line = line[at:]
        lines.append(line)
    return lines


def _fits(text: str, width: int) -> int:
    """How many of the first characters fit into this many cells; at least one."""
    at = min(len(text), width)
    while at > 1 and cell_len(text[:at]) > width:
        at -= 1
    return at


def _width(text: str) -> int:
    return cell_len(text) if "\n" not in text else max(map(cell_len, text.split("\n")))


def _is_number(text: str) -> bool:
    try:
        float(text or "0")
    except ValueError:
        return False
    return True
