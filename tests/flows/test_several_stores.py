"""Several stores asked at once."""

import errno
import json
import shutil
from pathlib import Path
from typing import NoReturn

import duckdb
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.reports.several_stores import attached
from storage.catalog import published
from storage.catalog.tables import TABLES
from tests.explorer.small_catalog import N_LAYERS, write_small_catalog


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("several")
    places = [folder / "one" / "store", folder / "o'ther"]
    for place in places:
        place.mkdir(parents=True)
        write_small_catalog(place)
    return places


def test_every_table_says_of_which_store_a_row_is(stores: list[Path]) -> None:
    with attached(stores) as connection:
        n_filled = 0
        for table in TABLES:
            found = connection.execute(f"SELECT store, count(*) AS n FROM {table} GROUP BY store").fetchall()
            counts = dict(found)
            assert not found or set(counts) == {"store", "o'ther"}
            assert len(set(counts.values())) <= 1
            n_filled += bool(found)
        assert n_filled > 10


def test_views_compare_models(stores: list[Path]) -> None:
    arguments = [str(store) for store in stores]
    result = CliRunner().invoke(app, ["attach", *arguments, "--format", "json"])
    models = json.loads(result.output)
    assert [(row["store"], row["name"]) for row in models] == [
        ("o'ther", "later"), ("o'ther", "small"), ("store", "later"), ("store", "small"),
    ]  # fmt: skip
    query = "SELECT DISTINCT store, layer, depth FROM by_depth WHERE name = 'small' ORDER BY ALL"
    result = CliRunner().invoke(app, ["attach", *arguments, "--format", "json", "--sql", query])
    depths = [row["depth"] for row in json.loads(result.output) if row["store"] == "store"]
    assert depths == [layer / (N_LAYERS - 1) for layer in range(N_LAYERS)]


def test_an_earlier_catalog_in_a_folder_that_cannot_be_written(
    stores: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Path(shutil.copytree(stores[0], tmp_path / "old"))
    published.published_path(old / "catalog.duckdb").unlink(missing_ok=True)
    with duckdb.connect(old / "catalog.duckdb") as connection:
        connection.execute("DROP TABLE contribution_edges; UPDATE schema_version SET version = 19")

    def refused(*_arguments: object, **_more: object) -> NoReturn:
        raise OSError(errno.EROFS, "read-only file system")

    monkeypatch.setattr(published, "publish", refused)
    expected = "catalog.duckdb is of an earlier version, and its folder cannot be written"
    with pytest.raises(ValueError, match=expected), attached([old, stores[1]]):
        pass


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("INSERT INTO store_0.tokens SELECT * FROM store_0.tokens", "read-only"),
        ("SELECT * FROM read_text('/etc/hostname')", "disabled"),
        ("SELECT nothing FROM models", "nothing"),
    ],
)
def test_queries_that_are_refused(stores: list[Path], sql: str, message: str) -> None:
    result = CliRunner().invoke(app, ["attach", *map(str, stores), "--sql", sql])
    assert (result.exit_code, message in result.output) == (2, True), result.output


def test_stores_that_are_refused(stores: list[Path], tmp_path: Path) -> None:
    for chosen, message in (
        ([stores[0]], "name two stores or more"),
        ([stores[0], stores[0]], "each once"),
        ([stores[0], tmp_path], "no catalog at"),
    ):
        result = CliRunner().invoke(app, ["attach", *map(str, chosen)])
        assert (result.exit_code, message in result.output) == (2, True)
