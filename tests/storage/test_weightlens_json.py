"""The authors' files, in and out."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.exchange import export_weightlens, import_weightlens
from storage.catalog.database import insert_row, open_catalog
from storage.store import Store, open_store

EDGE = {"from_layer": 0, "from_feature_idx": 3, "contribution": 4.0, "relative_contribution": 0.125}
VOCABULARY = ["a", " b", "<0xE2>", "<0x82>", "same", "same", "z"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store that knows one checkpoint: two layers of four features."""
    store = open_store(tmp_path / "store")
    with open_catalog(store.catalog, write=True) as connection:
        row = {"checkpoint_id": "base", "name": "known", "n_layers": 2, "d_transcoder": 4}
        insert_row(connection, "checkpoints", row)
        for token_id, text in enumerate(VOCABULARY):
            insert_row(connection, "tokens", {"checkpoint_id": "base", "token_id": token_id, "text": text})
    return store


def analysis(layer: int, feature: int, **changes: Any) -> dict[str, Any]:
    """A feature as the authors' code writes it, with values of its arithmetic."""
    entry = {
        "feature": {"layer": layer, "feature_idx": feature},
        "embedding": {
            "top_positive_tokens": ["z", "�"],
            "top_negative_tokens": [" b"],
            "positive_tokens_activation": [1.5, 0.0],
            "top_positive_token_ids": [6, 2],
            "top_positive_tokens_contribution": [3.0, 2.5],
            "top_negative_tokens_ids": [1],
            "top_negative_tokens_contribution": [-2.0],
            "top_positive_tokens_relative_contribution": [0.09375, 0.078125],
            "top_negative_tokens_relative_contribution": [0.0625],
        },
        "output_logits": {"top_positive_tokens": ["same", "same", "�", "new"], "top_negative_tokens": ["a"]},
        "feature_to_feature_contributions": [EDGE] if layer else [],
        "total_input_invariant_detected_contribution": 0.296875 if layer else 0.171875,
        "total_input_invariant_contribution": 32.0,
        "description_soft": ["a", "z"],
        "description": ["z"],
        "validation": True,
        "validation_soft": 0.5,
    }
    return {**entry, **changes}


def write(folder: Path, layer: int, entries: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"feature_analysis_layer_{layer}.json"
    path.write_text(json.dumps(entries, indent=2))
    return path


def test_files_come_out_as_they_went_in(store: Store, tmp_path: Path) -> None:
    silent = {"description": None, "description_soft": None, "validation": False, "validation_soft": 0.0}
    write(tmp_path / "in", 0, [analysis(0, 1), analysis(0, 3, **silent)])
    write(tmp_path / "in", 1, [analysis(1, 0), analysis(1, 2, description_soft=["z", "a", "a"], description=None)])
    checkpoint_id = import_weightlens(store, tmp_path / "in", None, "theirs")
    exported = export_weightlens(store, checkpoint_id, tmp_path / "out")
    assert [path.read_text() for path in exported] == [(tmp_path / "in" / path.name).read_text() for path in exported]


def test_an_imported_text_is_given_an_id_only_where_it_names_one_token(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "in", 0, [analysis(0, 1)])
    import_weightlens(store, tmp_path / "in", "known", "theirs")
    with open_catalog(store.catalog) as connection:
        query = """SELECT text, token_id FROM token_candidates JOIN tokens USING (checkpoint_id, token_id)
                   WHERE side = 'output' ORDER BY sign DESC, rank"""
        found = connection.execute(query).fetchall()
    ids = dict(found)
    assert [text for text, _ in found] == ["same", "same", "�", "new", "a"]
    assert ids["a"] == 0
    assert ids["�"] == 2  # the file itself says so, on the input side
    assert all(token_id < 0 for text, token_id in found if text in ("same", "new"))


def test_importing_again_changes_nothing(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "in", 0, [analysis(0, 1)])
    ids = {import_weightlens(store, tmp_path / "in", "known", "theirs") for _ in range(2)}
    with open_catalog(store.catalog) as connection:
        assert connection.execute("SELECT count(*) FROM checkpoints").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM contribution_totals").fetchone() == (1,)
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (analysis(1, 1), "says layer 1, the file's name 0"),
        (analysis(0, 4), "has 0-3"),
        (analysis(0, -1), "has 0-3"),
        (analysis(0, 1, more=1), r"0\.more: Extra inputs"),
        (analysis(0, 1, validation="yes"), r"0\.validation: .*boolean"),
        (analysis(0, 1, total_input_invariant_contribution=float("nan")), "total_input_invariant_contribution"),
        (analysis(0, 1, embedding={**analysis(0, 1)["embedding"], "top_positive_token_ids": [6]}), "unequal length"),
        (analysis(0, 1, embedding={**analysis(0, 1)["embedding"], "top_negative_tokens_ids": [70]}), "token id 70"),
        (
            analysis(0, 1, feature_to_feature_contributions=analysis(1, 1)["feature_to_feature_contributions"]),
            "earlier",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_leaves_nothing(
    store: Store, tmp_path: Path, entry: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "in", 0, [entry])
    with pytest.raises(ValueError, match=message) as error:
        import_weightlens(store, tmp_path / "in", "known", "theirs")
    assert path.name in str(error.value) or "layer 0 feature 1" in str(error.value)
    with open_catalog(store.catalog) as connection:
        assert connection.execute("SELECT count(*) FROM checkpoints").fetchone() == (1,)


def test_text_that_is_not_json_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "feature_analysis_layer_0.json").write_text('[{"feature": ')
    with pytest.raises(ValueError, match=r"feature_analysis_layer_0\.json"):
        import_weightlens(store, tmp_path / "in", "known", "theirs")


def test_a_folder_without_such_files_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no feature_analysis_layer_N"):
        import_weightlens(store, tmp_path, "known", "theirs")
