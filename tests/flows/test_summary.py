"""Which features the summary of a run shows."""

from datetime import datetime
from pathlib import Path

import pytest

from flows.reports.summary import N_SHOWN, Shown, markdown_summary, summarise
from storage.catalog.database import insert_row, open_catalog
from storage.catalog.published import publish
from storage.store import Store

ID, CORPUS = "c0ffee000001", "feed00000001"


def catalog_of(
    folder: Path, described: list[tuple[int, int, str, float]], scores: dict[str, tuple[float, float]]
) -> Store:
    """A catalog of features (layer, feature, description, density); scores are (clarity, detection) by description."""
    with open_catalog(folder / "catalog.duckdb", write=True) as connection:
        insert_row(connection, "checkpoints", {
            "checkpoint_id": ID, "name": "small", "model_name": "model", "family": "gpt2", "activation": "relu",
            "n_layers": 2, "d_model": 16, "d_transcoder": 99, "d_vocab": 9, "ingested_at": datetime(2026, 1, 1),
        })  # fmt: skip
        for layer, feature, text, density in described:
            of = {"checkpoint_id": ID, "corpus_id": CORPUS, "layer": layer, "feature": feature}
            insert_row(connection, "features", {**of, "n_active": 9, "density": density, "is_dead": False})
            insert_row(connection, "descriptions", {
                **of, "method": "maxact", "explainer": "tokens", "cluster": -1, "text": text, "tokens": [" cat"],
            })  # fmt: skip
            for metric, value in zip(("clarity", "detection"), scores.get(text, ()), strict=False):
                insert_row(connection, "scores", {
                    **of, "method": "maxact", "explainer": "tokens", "judge": "rule", "metric": metric,
                    "value": value, "n": 20,
                })  # fmt: skip
    publish(folder / "catalog.duckdb")
    return Store(folder)


CONTEXT = "‘value’ and ‘result’, right after ‘the’."
WORDS = "‘cat’ and ‘dog’."
PIECES = "‘-his’ and ‘-clud’."


def shown(store: Store) -> list[tuple[int, int]]:
    return [(one.layer, one.feature) for one in summarise(store, ID).features]


def test_whole_words_and_contexts_come_first(tmp_path: Path) -> None:
    described = [(0, 1, PIECES, 0.01), (0, 2, WORDS, 0.01), (0, 3, CONTEXT, 0.01), (1, 4, "‘tree’.", 0.01)]
    store = catalog_of(tmp_path, described, {text: (0.9, 0.8) for _, _, text, _ in described})
    assert shown(store) == [(0, 3), (0, 2), (0, 1), (1, 4)]
    assert summarise(store, ID).features[0] == Shown(0, 3, CONTEXT, 0.9, 0.8)
    assert "| 0 | 3 |" in markdown_summary(store, ID)


@pytest.mark.parametrize(
    ("text", "density", "why"),
    [
        ("‘house’.", 0.06, "it fires nearly everywhere"),
        ("‘house’. Promotes ‘garden’.", 0.01, "what it promotes was not scored"),
        ("‘house’, " + "mostly in ‘household’, " * 9, 0.01, "nobody reads it to its end"),
        ("‘Cat’ and ‘house’.", 0.01, "its word is shown already"),
    ],
)
def test_what_does_not_convince_is_not_shown(tmp_path: Path, text: str, density: float, why: str) -> None:
    described = [(0, 1, WORDS, 0.01), (0, 2, text, density), (0, 3, "‘house’ and ‘home’.", 0.01)]
    scores = {WORDS: (0.9, 0.9), text: (0.8, 0.9), "‘house’ and ‘home’.": (0.7, 0.7)}
    assert shown(catalog_of(tmp_path, described, scores)) == [(0, 1), (0, 3)], why


def test_scores_shown_are_of_one_judge(tmp_path: Path) -> None:
    store = catalog_of(tmp_path, [(0, 1, WORDS, 0.01)], {WORDS: (0.2, 0.6)})
    with open_catalog(store.catalog, write=True) as connection:
        insert_row(connection, "scores", {
            "checkpoint_id": ID, "corpus_id": CORPUS, "layer": 0, "feature": 1, "method": "maxact",
            "explainer": "tokens", "judge": "other", "metric": "clarity", "value": 0.9, "n": 20,
        })  # fmt: skip
    publish(store.catalog)
    assert summarise(store, ID).features == [Shown(0, 1, WORDS, 0.2, 0.6)]


def test_every_layer_is_among_those_shown(tmp_path: Path) -> None:
    words = ["able", "bird", "coal", "door", "echo", "fire", "gold", "hill", "iron", "jade", "king", "lamp"]
    described = [(0, at, f"‘{word}’.", 0.01) for at, word in enumerate(words)] + [(1, 0, "‘moon’.", 0.01)]
    scores = {text: (0.9, 0.9) for _, _, text, _ in described} | {"‘moon’.": (0.2, 0.6)}
    found = shown(catalog_of(tmp_path, described, scores))
    assert len(found) == N_SHOWN
    assert found[-1] == (1, 0)


def test_without_scores_those_that_weights_describe_are_shown(tmp_path: Path) -> None:
    store = catalog_of(tmp_path, [(0, 1, WORDS, 0.01)], {})
    assert shown(store) == []
    with open_catalog(store.catalog, write=True) as connection:
        of = {"checkpoint_id": ID, "layer": 0, "feature": 1}
        tokens = {"side": "input", "sign": 1, "score": 1.0, "z_score": 5.0, "activation": 2.0, "validated": True}
        for rank in range(3):
            insert_row(connection, "token_candidates", {**of, **tokens, "rank": rank, "token_id": rank})
        insert_row(connection, "descriptions", {
            **of, "corpus_id": None, "method": "weightlens", "explainer": "tokens", "cluster": -1, "text": "‘sun’",
            "tokens": [" sun"],
        })  # fmt: skip
    publish(store.catalog)
    assert summarise(store, ID).features == [Shown(0, 1, "‘sun’", None, None)]
