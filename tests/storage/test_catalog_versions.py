"""Catalogs of earlier versions keep their rows and gain today's tables, columns and views."""

from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from flows.exchange import import_weightlens
from flows.import_published import import_descriptions
from storage.catalog.database import SCHEMA_VERSION, check_catalog, loaded_recipe, open_catalog, replace_rows
from storage.catalog.parts import write_part
from storage.catalog.published import open_published, published_path
from storage.catalog.tables import TABLES, VIEWS
from storage.store import Store

ROWS = """
    INSERT INTO checkpoints (checkpoint_id, name, n_layers, d_transcoder) VALUES ('c', 'mine', 2, 16);
    INSERT INTO feature_edges VALUES ('c', NULL, 0, 3, 1, 2, 0.5, 4.5);
    INSERT INTO descriptions (checkpoint_id, layer, feature, method, text) VALUES ('c', 0, 3, 'weightlens', 'words');
    INSERT INTO loaded VALUES ('c', 'weightlens', 'r');
"""


@pytest.fixture
def version_1(tmp_path: Path) -> Path:
    catalog = tmp_path / "catalog.duckdb"
    with duckdb.connect(catalog) as connection:
        connection.execute((Path(__file__).parent / "catalog_v1.sql").read_text(encoding="utf-8"))
        connection.execute(ROWS)
    return catalog


def schema(connection: duckdb.DuckDBPyConnection) -> dict[str, set[tuple[str, str]]]:
    query = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal"
    found: dict[str, set[tuple[str, str]]] = {}
    for table, column, type_ in connection.execute(query).fetchall():
        found.setdefault(table, set()).add((column, type_))
    return found


def test_a_writer_brings_it_forward_and_keeps_its_rows(version_1: Path, tmp_path: Path) -> None:
    check_catalog(version_1)
    assert loaded_recipe(version_1, "c", "weightlens") == "r"
    with open_catalog(version_1, write=True):
        pass
    new = tmp_path / "new.duckdb"
    with open_catalog(new, write=True):
        pass
    with open_catalog(version_1) as old_one, duckdb.connect(new, read_only=True) as new_one:
        assert schema(old_one) == schema(new_one)
        assert old_one.execute("SELECT version FROM schema_version").fetchall() == [(SCHEMA_VERSION,)]
        query = "SELECT source_feature, virtual_weight, twera FROM feature_edges"
        assert old_one.execute(query).fetchall() == [(3, 0.5, None)]
        assert old_one.execute("SELECT text FROM descriptions").fetchall() == [("words",)]
        for view in VIEWS:
            old_one.execute(f"SELECT * FROM {view}").fetchall()


def test_a_failed_write_leaves_it_as_it_was(version_1: Path) -> None:
    with pytest.raises(RuntimeError), open_catalog(version_1, write=True):
        raise RuntimeError
    with open_catalog(version_1) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(1,)]
        assert "samples" not in schema(connection)


def test_parts_of_both_versions_load_into_the_right_columns(version_1: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.parquet"
    columns = {"source_layer": 0, "source_feature": [1], "target_layer": 1, "target_feature": [2]}
    write_part(new, "feature_edges", {**columns, "virtual_weight": [0.25], "n_coactive": [7]}, 1)
    old = tmp_path / "old.parquet"
    with open_catalog(version_1) as connection:
        connection.execute(f"COPY feature_edges TO '{old}'")
    with open_catalog(version_1, write=True) as connection:
        replace_rows(connection, "feature_edges", {"checkpoint_id": "c"}, [old, new])
        query = "SELECT checkpoint_id, source_feature, virtual_weight, n_coactive FROM feature_edges ORDER BY ALL"
        assert connection.execute(query).fetchall() == [("c", 1, 0.25, 7), ("c", 3, 0.5, None)]


def test_a_reader_sees_it_in_todays_schema_without_touching_it(version_1: Path) -> None:
    before = version_1.read_bytes()
    with open_published(version_1) as connection:
        assert set(TABLES) <= set(schema(connection))
        assert connection.execute("SELECT text FROM descriptions").fetchall() == [("words",)]
    assert version_1.read_bytes() == before
    assert published_path(version_1).is_file()


@pytest.mark.parametrize("bring_in", [import_weightlens, import_descriptions])
def test_analyses_are_imported_into_it(version_1: Path, bring_in: Callable[..., str]) -> None:
    (version_1.parent / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"nothing: no|nothing holds no|no .* in .*nothing"):
        bring_in(Store(version_1.parent), version_1.parent / "nothing", None, "theirs")
