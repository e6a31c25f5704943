"""Words find features by what is said of them and by the texts on which they fire."""

import os
from pathlib import Path

import pytest

from storage.catalog.database import insert_row, open_catalog
from storage.catalog.published import open_published
from storage.search import index as search_index
from storage.search.index import NAME, current_index, open_index
from storage.search.lexical import ContextHit, DescriptionHit, Query, search_contexts, search_descriptions
from storage.search.words import terms, words

ROWS = [
    ["The", " cats", " sat", " on", " the", " red", " mat", "."],
    ["A", " red", " dog", " runs", ",", " it", " ran", " home"],
]


def describe(catalog: Path, feature: int, text: str, layer: int = 0, method: str = "weightlens") -> None:
    with open_catalog(catalog, write=True) as connection:
        key = {"checkpoint_id": "c", "corpus_id": None, "layer": layer, "feature": feature}
        more = {"method": method, "explainer": "tokens", "cluster": -1}
        insert_row(connection, "descriptions", {**key, **more, "text": text})


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    path = tmp_path / "catalog.duckdb"
    describe(path, 1, "cats and dogs")
    describe(path, 1, "a cat", method="maxact")
    describe(path, 2, "running shoes")
    describe(path, 3, "the red mat", layer=1)
    describe(path, 4, "‘>>>’, ‘...’")
    with open_catalog(path, write=True) as connection:
        for sequence, tokens in enumerate(ROWS):
            connection.execute("INSERT INTO sequences VALUES ('x', ?, ?, ?)", [sequence, tokens, [0] * len(tokens)])
        for layer, feature, sequence, position, activation in [(0, 1, 0, 1, 2.0), (0, 2, 1, 3, 3.0), (0, 2, 0, 0, 1.0),
                                                               (1, 3, 0, 6, 1.0), (1, 3, 1, 1, 4.0)]:  # fmt: skip
            row = [layer, feature, sequence, sequence, position, activation]
            connection.execute("INSERT INTO samples VALUES ('c', 'x', ?, ?, ?, ?, ?, ?, 0, NULL)", row)
        for layer, feature, greatest in [(0, 1, 2.0), (0, 2, 6.0), (1, 3, 4.0)]:
            row = {"checkpoint_id": "c", "corpus_id": "x", "layer": layer, "feature": feature}
            insert_row(connection, "features", {**row, "max_activation": greatest})
    return path


def described(catalog: Path, text: str, **more: object) -> list[DescriptionHit]:
    with open_published(catalog) as connection:
        return search_descriptions(connection, open_index(catalog), Query(text, **more))  # pyright: ignore


def active(catalog: Path, text: str, **more: object) -> list[ContextHit]:
    with open_published(catalog) as connection:
        return search_contexts(connection, open_index(catalog), Query(text, **more))  # pyright: ignore


def test_a_word_finds_its_forms_and_the_description_that_has_it(catalog: Path) -> None:
    [hit] = described(catalog, "CAT")
    assert (hit.layer, hit.feature, hit.method, hit.text) == (0, 1, "maxact", "a cat")
    assert [hit.text for hit in described(catalog, "run")] == ["running shoes"]


def test_features_with_all_words_come_before_those_with_some(catalog: Path) -> None:
    describe(catalog, 5, "red things, red ones, red")
    assert [hit.feature for hit in described(catalog, "red mat")] == [3, 5]


def test_phrases_and_beginnings(catalog: Path) -> None:
    assert [hit.feature for hit in described(catalog, '"mat red"')] == []
    assert [hit.feature for hit in described(catalog, '"red mat"')] == [3]
    assert [hit.feature for hit in described(catalog, "sho*")] == [2]


def test_a_query_without_words_finds_the_very_text(catalog: Path) -> None:
    assert [hit.feature for hit in described(catalog, ">>>")] == [4]
    assert active(catalog, ">>>") == []


def test_a_layer_and_a_checkpoint_narrow_it_down(catalog: Path) -> None:
    assert described(catalog, "cat", layer=1) == []
    assert described(catalog, "cat", checkpoint_id="other") == []
    assert len(described(catalog, "cat", checkpoint_id="c", layer=0)) == 1
    assert {hit.layer for hit in active(catalog, "red", layer=1)} == {1}


def test_features_that_fire_on_the_words_come_first(catalog: Path) -> None:
    hits = active(catalog, "red")
    first = hits[0]
    assert (first.layer, first.feature, first.before, first.token, first.after) == (
        1,
        3,
        "A",
        " red",
        " dog runs, it ran home",
    )
    assert first.score == 1
    assert [(hit.layer, hit.feature) for hit in hits] == [(1, 3), (0, 2)]  # 0/1 fires before the word


def test_contexts_find_other_forms_of_a_word(catalog: Path) -> None:
    first = active(catalog, "cat")[0]
    assert (first.feature, first.token) == (1, " cats")


@pytest.mark.parametrize(
    "text", ["", '"', "AND", "NEAR(", "words:", "* ^ -", "'; DROP TABLE x", "a" * 5000, "\0\ud800"]
)
def test_nothing_in_a_query_is_an_operator(catalog: Path, text: str) -> None:
    described(catalog, text)
    active(catalog, text)
    assert active(catalog, "cat")[0].feature == 1, "nothing was changed by it"


def test_words_of_scripts_without_blanks_are_characters() -> None:
    assert [word.form for word in words("日本語とPython")] == ["日", "本", "語", "と", "python"]
    assert [term.forms for term in terms("日本")] == [("日", "本")]


def test_accents_and_case_do_not_matter() -> None:
    assert [word.form for word in words("Ünïcode Straße")] == ["unicode", "strasse"]


def test_the_index_is_made_once_and_anew_when_it_is_behind(catalog: Path) -> None:
    assert current_index(catalog) is None
    described(catalog, "cat")
    made = catalog.with_name(NAME).stat().st_ino
    described(catalog, "cat")
    assert catalog.with_name(NAME).stat().st_ino == made
    describe(catalog, 9, "zebra")
    assert [hit.feature for hit in described(catalog, "zebra")] == [9]


def test_a_damaged_index_is_made_anew(catalog: Path) -> None:
    described(catalog, "cat")
    catalog.with_name(NAME).write_bytes(b"no database at all")
    assert len(described(catalog, "cat")) == 1


def test_where_nothing_can_be_written_the_index_is_in_the_cache(
    catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIRCUIT_INSIGHTS_CACHE", str(tmp_path / "cache"))
    write = search_index._write

    def read_only(of: Path, path: Path) -> Path:
        if path.parent == catalog.parent:
            raise OSError(30, os.strerror(30))
        return write(of, path)

    monkeypatch.setattr(search_index, "_write", read_only)
    assert len(described(catalog, "cat")) == 1
    assert [path.parent.name for path in tmp_path.rglob("*.sqlite")] == ["search"]
