"""What no result rests on can go, and only that."""

import os
from pathlib import Path

import pytest

from storage.catalog.database import insert_row, mark_loaded, note_recipes, open_catalog, replace_rows
from storage.catalog.parts import write_part
from storage.catalog.vacuum import owner, remove, unneeded
from storage.layout import FOLDERS
from storage.store import ShardKey, Store, open_store, write_json


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(tmp_path)
    kept, dropped = (ShardKey(recipe, 0, 0, 2) for recipe in ("new", "old"))
    for key in (kept, dropped):
        write_part(store.part("feature_edges", key), "feature_edges", {"target_feature": [1]}, 1)
    for folder in (
        "checkpoints/c",
        "checkpoints/half",
        "corpora/used",
        "corpora/other",
        "corpora/x.unfinished",
        "activations/pass",
        "activations/old",
        "coactivation/sums",
        "answers/ab",
        "evaluation/judged",
        "evaluation/other",
        "reports/another",
        "reports/older",
        "reports/drift-c-c",
        "reports/drift-c-gone",
    ):
        (store.root / folder).mkdir(parents=True)
    for recipe in ("used", "unused", "half"):
        store.trained_transcoders(recipe).mkdir(parents=True)
        if recipe != "half":
            (store.trained_transcoders(recipe) / "config.yaml").write_text("x")
    (store.root / "notes").mkdir()
    write_json(store.equals("needed"), {"recipes": ["gone", "new"]})
    write_json(store.equals("unneeded"), {"recipes": ["gone", "old"]})
    for name in ("catalog.published.duckdb.0a1b2c3d.partial", "catalog.damaged-20260101T000000000000.duckdb"):
        (store.root / name).touch()
        os.utime(store.root / name, (1, 1))
    with open_catalog(store.catalog, write=True) as connection:
        transcoders = str(store.trained_transcoders("used"))
        insert_row(connection, "checkpoints", {"checkpoint_id": "c", "transcoder_name": transcoders})
        insert_row(connection, "corpora", {"corpus_id": "used"})
        for key in (dropped, kept):
            replace_rows(connection, "feature_edges", {"checkpoint_id": "c"}, [store.part("feature_edges", key)])
        note_recipes(connection, "activations", {"checkpoint_id": "c"}, ["pass"])
        note_recipes(connection, "evaluation", {"checkpoint_id": "c"}, ["judged"])
        mark_loaded(connection, "c", "weightlens", "another")
        mark_loaded(connection, "c", "coactivation", "edges")  # by a version that did not note its sums
    return store


def test_what_is_not_needed_is_shown_and_removed_and_the_rest_stays(store: Store) -> None:
    found = unneeded(store)
    assert {str(item.path.relative_to(store.root)) for item in found} == {
        "checkpoints/half", "corpora/other", "corpora/x.unfinished", "transcoders/unused", "transcoders/half",
        "parts/feature_edges/old", "activations/old", "evaluation/other", "reports/older", "reports/drift-c-gone",
        "equals/unneeded.json", "catalog.published.duckdb.0a1b2c3d.partial",
        "catalog.damaged-20260101T000000000000.duckdb",
    }  # fmt: skip
    sizes = {item.path.name: item.n_bytes for item in found}
    assert sizes["old"] > 0
    remove(found)
    assert unneeded(store) == []
    left = {str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_dir()}
    assert {"checkpoints/c", "corpora/used", "transcoders/used", "parts/feature_edges/new", "notes"} <= left
    assert {"activations/pass", "coactivation/sums", "answers/ab", "evaluation/judged", "reports/another"} <= left
    assert store.equals("needed").exists()
    assert [item.path.name for item in unneeded(store, answers=True)] == ["answers"]


def test_parts_stay_where_an_earlier_version_did_not_record_them(store: Store) -> None:
    with open_catalog(store.catalog, write=True) as connection:
        connection.execute("DELETE FROM loaded_parts")
    assert not any("parts" in item.path.parts for item in unneeded(store))


@pytest.mark.parametrize("folder", FOLDERS)
def test_of_every_folder_it_is_known_what_is_needed(folder: str) -> None:
    assert owner(folder) is not None


def test_without_a_catalog_nothing_is_said_to_be_unneeded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no catalog"):
        unneeded(open_store(tmp_path))
