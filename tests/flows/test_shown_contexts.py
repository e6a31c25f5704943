"""`show` prints a feature's activations in their texts."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from flows.reports.in_context import contexts
from storage.catalog.database import insert_row, open_catalog

TOKENS = ["One", ".", " A", " red", " do\u202eg", " ran", ".", " Two", "."]


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """One feature: a sample of the quantile sample in a cluster, another in none, and a greatest activation."""
    path = tmp_path / "catalog.duckdb"
    with open_catalog(path, write=True) as connection:
        insert_row(connection, "corpora", {"corpus_id": "x", "name": "[b]text", "has_text": True})
        connection.execute("INSERT INTO sequences VALUES ('x', 0, ?, ?)", [TOKENS, [0] * len(TOKENS)])
        for sample, (position, activation, quantile_bin, cluster) in enumerate(
            [(3, 1.0, 4, 0), (5, 0.5, 2, -1), (4, 9.0, None, None)]
        ):
            row = [sample, position, activation, quantile_bin, cluster]
            connection.execute("INSERT INTO samples VALUES ('c', 'x', 1, 7, ?, 0, ?, ?, ?, ?)", row)
        row = {"checkpoint_id": "c", "corpus_id": "x", "layer": 1, "feature": 7, "cluster": 0}
        insert_row(connection, "clusters", {**row, "n_samples": 1, "share": 0.5, "signature": ["L0 #3"]})
    return path


def printed(catalog: Path, coloured: bool = False, width: int = 80) -> list[str]:
    console = Console(file=StringIO(), width=width, force_terminal=coloured, color_system="standard")
    if not coloured:
        console = Console(file=StringIO(), width=width)
    with open_catalog(catalog) as connection:
        for part in contexts(connection, ["c", 1, 7]):
            console.print(part)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def test_each_is_one_line_by_cluster_with_the_firing_token_marked(catalog: Path) -> None:
    assert [line.strip() for line in printed(catalog)] == [
        "In [b]text",
        "greatest activations",
        "9         A red« do\\u202eg» ran.",
        "1 bin  4  A« red» do\\u202eg ran.",
        "0.5 bin  2  A red do\\u202eg« ran».",
        "cluster 0: 1 samples (50%), caused by L0 #3",
        "1 bin  4  A« red» do\\u202eg ran.",
        "in no cluster",
        "0.5 bin  2  A red do\\u202eg« ran».",
    ]


def test_a_terminal_has_colours_instead_of_marks(catalog: Path) -> None:
    lines = printed(catalog, coloured=True)
    assert any("\x1b[1;30;43m red\x1b[0m" in line for line in lines)
    assert "«" not in "".join(lines)


def test_long_texts_stay_on_their_line(catalog: Path) -> None:
    with open_catalog(catalog, write=True) as connection:
        tokens = [f" word{i}" for i in range(60)]
        connection.execute("UPDATE sequences SET tokens = ?, documents = ?", [tokens, [0] * 60])
    lines = printed(catalog, width=70)
    assert len(lines) == 9
    assert max(map(len, lines)) == 70
    assert "« word3» word4" in lines[3]
    assert lines[3].endswith("…")


@pytest.mark.parametrize(("has_text", "why"), [(False, "is kept private"), (None, "comes with the next run")])
def test_without_text_it_says_why(catalog: Path, has_text: bool | None, why: str) -> None:
    with open_catalog(catalog, write=True) as connection:
        connection.execute("DELETE FROM sequences")
        connection.execute("UPDATE corpora SET has_text = ?", [has_text])
    [line] = printed(catalog)
    assert why in line
