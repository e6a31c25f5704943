"""Tables of descriptions and scores that others published, in and beside one's own."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.import_published import import_descriptions, local_folder
from flows.reports.agreement import agreement
from storage.catalog.database import insert_row, open_catalog
from storage.store import Store, open_store

THEIRS = [
    {"layer": 0, "feature_idx": 1, "method": "CL-Full", "description": "cats and dogs", "clarity": 0.8, "purity": None},
    {"layer": 0, "feature_idx": 2, "method": "CL-Full", "description": "a verb", "clarity": 0.2, "purity": 0.5},
    {"layer": 1, "feature_idx": 0, "method": "CL-Full", "description": None, "clarity": None, "purity": None},
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with one checkpoint of two layers of four features, two of which are described and scored."""
    store = open_store(tmp_path / "store")
    with open_catalog(store.catalog, write=True) as connection:
        row = {"checkpoint_id": "base", "name": "known", "weights_sha256": "w", "n_layers": 2, "d_transcoder": 4}
        insert_row(connection, "checkpoints", row)
        for feature, text, clarity in ((1, "dogs; cats", 0.9), (2, "nouns", 0.3)):
            key = {"checkpoint_id": "base", "layer": 0, "feature": feature, "method": "maxact", "explainer": "tokens"}
            insert_row(connection, "descriptions", {**key, "corpus_id": "t", "cluster": -1, "text": text})
            score = {"corpus_id": "t", "judge": "rule", "metric": "clarity", "value": clarity}
            insert_row(connection, "scores", {**key, **score})
    return store


@pytest.fixture
def connection(store: Store) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_catalog(store.catalog) as connection:
        yield connection


def written(folder: Path, suffix: str, rows: list[dict[str, Any]], name: str = "scores") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json"])
def test_a_table_becomes_a_source_of_its_own_and_is_compared(store: Store, tmp_path: Path, suffix: str) -> None:
    written(tmp_path / "in", suffix, THEIRS)
    checkpoint_id = import_descriptions(store, tmp_path / "in", None, "theirs")
    assert import_descriptions(store, tmp_path / "in", "known", "theirs") == checkpoint_id
    with open_catalog(store.catalog) as connection:
        query = "SELECT feature, text, method, explainer FROM descriptions WHERE checkpoint_id = ? ORDER BY feature"
        assert connection.execute(query, [checkpoint_id]).fetchall() == [
            (1, "cats and dogs", "CL-Full", "authors"),
            (2, "a verb", "CL-Full", "authors"),
        ]
        query = "SELECT feature, metric, value, reason FROM scores WHERE checkpoint_id = ? ORDER BY ALL"
        assert connection.execute(query, [checkpoint_id]).fetchall() == [
            (1, "clarity", 0.8, None),
            (1, "purity", None, "not_published"),
            (2, "clarity", 0.2, None),
            (2, "purity", 0.5, None),
        ]
        query = """SELECT imported_method, n_features, word_overlap, validated_overlap, clarity_correlation, n_scored
                   FROM method_agreement WHERE checkpoint_id = 'base'"""
        [(method, n, words, validated, correlation, n_scored)] = connection.execute(query).fetchall()
    assert (method, n, validated, n_scored) == ("CL-Full", 2, None, 2)
    assert words == pytest.approx((2 / 3 + 0) / 2)
    assert correlation == pytest.approx(1)


def test_the_layer_may_stand_in_the_name_and_a_description_be_a_list_of_tokens(store: Store, tmp_path: Path) -> None:
    rows = [{"Feature": "3", "explanation": ["cat", "dog"]}]
    written(tmp_path / "in", ".jsonl", rows, "analysis_layer_1")
    checkpoint_id = import_descriptions(store, tmp_path / "in", None, "theirs")
    with open_catalog(store.catalog) as connection:
        query = "SELECT layer, feature, method, text, tokens FROM descriptions WHERE checkpoint_id = ?"
        assert connection.execute(query, [checkpoint_id]).fetchall() == [
            (1, 3, "theirs", "‘cat’, ‘dog’", ["cat", "dog"])
        ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"layer": 0, "feature": 1, "words": "x"}], "expected a column description or explanation or text; found"),
        ([{"feature": 1, "text": "x"}], "expected a column layer or"),
        ([{"layer": 0, "feature": 9, "text": "x"}], r"feature 9 of layer 0; checkpoint known has layers 0-1"),
        ([{"layer": 0, "feature": -1, "text": "x"}], "row 1: feature is -1; expected a whole number"),
        ([{"layer": 0, "feature": 1, "text": "x", "clarity": 7}], "row 1: clarity is 7; expected a number from -1"),
        ([{"layer": 0, "feature": 1, "text": 5}], "row 1: text is 5; expected a text"),
        ([{"layer": 0, "feature": 1, "text": "x"}] * 2, "is described twice"),
        ([{"layer": 0, "feature": 1, "text": ""}], "no table describes a feature"),
        ([[1, 2]], "row 1 is"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_name(
    store: Store, tmp_path: Path, rows: list[Any], message: str
) -> None:
    written(tmp_path / "in", ".jsonl", rows)
    with pytest.raises(ValueError, match=message):
        import_descriptions(store, tmp_path / "in", None, "theirs")
    with open_catalog(store.catalog) as connection:
        assert connection.execute("SELECT count(*) FROM checkpoints").fetchone() == (1,)


def test_files_that_are_no_tables_are_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        import_descriptions(store, tmp_path / "nothing", None, "theirs")
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match=r"no \*\.parquet or"):
        import_descriptions(store, tmp_path / "in", None, "theirs")
    (tmp_path / "in" / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"a\.parquet: not readable as a table"):
        import_descriptions(store, tmp_path / "in", None, "theirs")


def test_a_data_set_of_the_hub_is_asked_for_and_named_where_it_is_not_reached(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert local_folder("some/folder") == Path("some/folder")
    asked: dict[str, Any] = {}

    def download(repo: str, **how: Any) -> str:
        asked.update(repo=repo, **how)
        (tmp_path / "a.jsonl").write_text("{}\n")
        return str(tmp_path)

    monkeypatch.setattr("storage.hub.snapshot_download", download)
    assert local_folder("hub:someone/set@v1") == tmp_path
    assert (asked["repo"], asked["repo_type"], asked["revision"]) == ("someone/set", "dataset", "v1")


def test_validated_tokens_are_compared_where_both_have_some(store: Store, tmp_path: Path) -> None:
    written(tmp_path / "in", ".jsonl", THEIRS)
    theirs = import_descriptions(store, tmp_path / "in", None, "theirs")
    query = "SELECT validated_overlap FROM method_agreement WHERE checkpoint_id = 'base'"
    found = []
    with open_catalog(store.catalog, write=True) as connection:
        fixed = {"layer": 0, "side": "input", "sign": 1, "rank": 0, "validated": True}
        for checkpoint, feature, token in (("base", 1, 5), (theirs, 1, 6), (theirs, 1, 5), (theirs, 2, 5)):
            key = {"checkpoint_id": checkpoint, "feature": feature, "token_id": token}
            insert_row(connection, "token_candidates", {**key, **fixed})
            found += connection.execute(query).fetchall()
        inherited = {"checkpoint_id": theirs, "feature": 1, "token_id": 9, **fixed, "source_layer": 0}
        insert_row(connection, "token_candidates", inherited)
        assert connection.execute(query).fetchall() == found[-1:]
    assert found == [(None,), (0.0,), (0.5,), (0.25,)]


class _Alike:
    """Vectors that call two texts alike where they speak of cats."""

    embedder_id = "alike"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[1, 0] if "cats" in text else [0, 1] for text in texts], np.float32)


def test_the_likeness_of_texts_stands_beside_what_chance_gives(store: Store, tmp_path: Path) -> None:
    written(tmp_path / "in", ".jsonl", THEIRS)
    import_descriptions(store, tmp_path / "in", "known", "theirs")
    [row] = agreement(store.catalog, None, _Alike())
    assert (row["method"], row["imported_method"], row["n_features"]) == ("maxact", "CL-Full", 2)
    assert row["embedding_likeness"] == 1  # "dogs; cats" beside "cats and dogs", "nouns" beside "a verb"
    assert row["likeness_by_chance"] == 0
    assert "embedding_likeness" not in agreement(store.catalog, "known", None)[0]
    with pytest.raises(ValueError, match="nothing was imported that describes features of theirs"):
        agreement(store.catalog, "theirs", None)
