"""Tables for people: whole in a pipe, folded or turned in a terminal, never cut."""

from io import StringIO

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from flows.reports.tables import Columns, Table, block, fold

LONG = "a description of many words, with ‘import’ and others " * 4


def shown(table: Table, width: int | None) -> str:
    file = StringIO()
    console = Console(file=file, width=width or 1_000_000, force_terminal=width is not None, color_system=None)
    console.print(table)
    return file.getvalue()


def two_rows(text: str) -> Table:
    table = Table("layer", "feature", "text", title="Some")
    table.add_row("0", "13", text)
    table.add_row("1", "2", "short")
    return table


def test_a_table_that_fits_stands_as_it_is() -> None:
    lines = shown(two_rows("x"), 80).splitlines()
    assert lines[0] == "Some"
    assert lines[1] == "layer │ feature │ text"
    assert lines[3:5] == ["    0 │      13 │ x", "    1 │       2 │ short"]


def test_a_wide_table_is_folded_and_loses_nothing() -> None:
    lines = shown(two_rows(LONG), 80).splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert " ".join("".join(line.split("│")[-1] for line in lines[3:]).split()).startswith(LONG.strip()[:60])
    assert all(word in "".join(lines) for word in LONG.split())


def test_a_much_too_wide_table_has_one_row_a_block() -> None:
    table = Table(*(f"column_{i}" for i in range(12)))
    table.add_row(*(f"value number {i}" for i in range(12)))
    lines = shown(table, 60).splitlines()
    assert lines[0].startswith("─ row 1 ")
    assert lines[3] == "column_2  │ value number 2"
    assert max(map(cell_len, lines)) <= 60


def test_a_file_or_pipe_gets_whole_lines() -> None:
    lines = shown(two_rows(LONG), None).splitlines()
    assert lines[3].endswith(LONG.strip())
    assert "…" not in "".join(lines)


@given(st.text(st.characters(exclude_categories=["C", "Mn", "Me"], exclude_characters="\n")), st.integers(2, 30))
def test_folding_keeps_every_character(text: str, width: int) -> None:
    lines = fold(text, width)
    assert "".join(lines) == text
    assert max(map(cell_len, lines)) <= width


def test_a_block_in_a_very_narrow_terminal() -> None:
    lines = list(block(["a_long_column_name"], ["value " * 9], 1, 20))
    assert max(map(cell_len, lines)) <= 20
    assert "".join(lines).count("value") == 9


def test_columns_of_no_rows() -> None:
    assert list(Columns.of(["a", "bc"], []).head(["a", "bc"])) == ["a │ bc", "──┼───"]
