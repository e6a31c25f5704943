"""`sql`: what it takes, when it gives up, and what reaches a terminal, a file and a pipe."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from flows.cli import app
from storage.catalog.database import open_catalog
from tests.conftest import ROOT
from tests.terminal import at_terminal

ENDLESS = "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t) SELECT "

HOSTILE = "\x1b]52;c;eA==\x07\x9b31m\u202e\n<b>\U000e0001"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    with open_catalog(root / "catalog.duckdb", write=True) as connection:
        connection.execute("INSERT INTO tokens VALUES ('c', 0, ?), ('c', 1, 'a'), ('c', 2, NULL)", [HOSTILE])
    return root


def ask(store: Path, query: str, *options: str) -> Result:
    return CliRunner().invoke(app, ["sql", query, "--store", str(store), *options])


def test_no_query_and_several(store: Path) -> None:
    for nothing in ("", "   ", "/* words */", ";"):
        result = ask(store, nothing)
        assert (result.exit_code, "sql: no query" in result.output) == (2, True)
    both = ask(store, "SELECT 1 AS one; SELECT 2 AS two;")
    assert both.output.split() == ["one", "───", "1", "two", "───", "2"]
    steps = ask(store, "CREATE TEMP TABLE t AS SELECT 7 AS i; SELECT i FROM t")
    assert "7" in steps.output.split()
    for format in ("csv", "json"):
        refused = ask(store, "SELECT 1; SELECT 2", "--format", format)
        assert (refused.exit_code, "2 statements with answers" in refused.output) == (2, True)


def test_a_query_that_takes_too_long(store: Path) -> None:
    for what in ("count(*) FROM t", "* FROM t"):
        result = ask(store, ENDLESS + what, "--timeout", "0.5")
        assert result.exit_code == 2
        assert "sql: stopped after 0.5 s; --timeout SECONDS allows more" in result.output


def test_an_endless_query_ends_at_ctrl_c(store: Path) -> None:
    shown = at_terminal("sql", ENDLESS + "count(*) FROM t", "--store", store, ctrl_c_after_s=4)
    assert shown.code == 130
    assert "interrupted" in shown.text
    assert "Traceback" not in shown.text


def test_the_first_rows_of_a_long_answer_come_at_once(store: Path) -> None:
    query = "SELECT i, i * 2 AS twice FROM range(10_000_000_000) t(i)"
    for format in ("table", "csv", "json"):
        command = [sys.executable, "-m", "flows.cli", "sql", query, "--store", str(store), "--format", format]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3)]
            process.stdout.close()  # as `| head -3` does
            assert process.wait(timeout=30) == 0
            assert process.stderr is not None
            assert process.stderr.read() == ""
        assert "0" in "".join(lines)


def test_a_terminal_gets_no_control_characters(store: Path) -> None:
    query = "SELECT text FROM tokens WHERE token_id = 0"
    for format in ("table", "csv", "json"):
        text = at_terminal("sql", query, "--store", store, "--format", format, width=200).text
        assert not set(text.replace("\r\n", "\n")) & set(HOSTILE) - {"\n", *"]52;c;eA==31m<b>"}, text
        assert "\\u001b" in text
        assert "\\u202e" in text
    assert json.loads(text) == [{"text": HOSTILE}]


def test_files_and_pipes_get_the_data_as_it_is(store: Path, tmp_path: Path) -> None:
    query = "SELECT text FROM tokens WHERE token_id = 0"
    piped = {format: ask(store, query, "--format", format).output for format in ("csv", "json", "table")}
    assert json.loads(piped["json"]) == [{"text": HOSTILE}]
    assert HOSTILE in piped["csv"]
    assert "\x1b" not in piped["table"]
    for format in ("csv", "json", "parquet"):
        assert ask(store, query, "--format", format, "--output", str(tmp_path / format)).exit_code == 0
    with (tmp_path / "csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["text"], [HOSTILE]]
    assert json.loads((tmp_path / "json").read_text()) == [{"text": HOSTILE}]
    assert pq.read_table(tmp_path / "parquet").to_pylist() == [{"text": HOSTILE}]


def test_a_failed_query_leaves_the_file_that_was_there(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "answer.csv"
    file.write_text("before")
    result = ask(store, "SELECT error('no')", "--format", "csv", "--output", str(file))
    assert result.exit_code == 2
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
    nowhere = ask(store, "SELECT 1", "--output", str(tmp_path / "missing" / "x"))
    assert (nowhere.exit_code, "--output: " in nowhere.output) == (2, True)


def test_messages_for_a_terminal_are_escaped_and_fit_a_screen(store: Path) -> None:
    shown = at_terminal("sql", "SELECT 1", "--store", "/tmp/\x1b]0;x\x07/" + "a" * 20)
    assert "\\u001b" in shown.text
    assert "\x1b]" not in shown.text
    assert "\x07" not in shown.text
    long = ask(store, "SELECT '" + "\n" * 500)
    assert long.exit_code == 2
    assert len(long.output.splitlines()) < 25
