"""Samples in their text: the view `contexts` over what the catalog holds of the corpus."""

from pathlib import Path
from types import SimpleNamespace

import duckdb
import numpy as np
import pytest

from interp.circuitlens.input_patterns import strongest_sources
from interp.descriptions.window import text_around
from storage.catalog.contexts import LEAST_SHARE, MOST_CAUSES, TOKENS_AFTER, TOKENS_BEFORE
from storage.catalog.database import CorpusRow, open_catalog, put_corpus
from storage.catalog.sequences import CorpusRows, load_sequences
from storage.corpora.packing import Rows
from storage.exchange.parquet import export_tables
from storage.store import Store, open_store

VOCABULARY = ["<s>", " the", " cat", " sat", "<0xE2>", "<0x82>", "<0xAC>", "."]


ROWS = {
    "a": (
        [[0, 1, 2, 3, 0, 1, 4, 5, 6, 7], [0, 1, 2, 7, -1, -1, -1, -1, -1, -1]],
        [[0, 0, 0, 0, 1, 1, 1, 1, 1, 1], [2, 2, 2, 2, -1, -1, -1, -1, -1, -1]],
    ),
    "b": ([[1] * 200, [2] * 200], [[0] * 200, [1] * 200]),
}
"""Tokens and documents of two corpora, the second of long documents."""


def rows_of(_: Store, corpus_id: str, rows: np.ndarray) -> Rows:
    tokens, documents = (np.array(part, np.int32) for part in ROWS[corpus_id])
    return Rows(tokens[rows], documents[rows])


def attributes_of(_: Store, corpus_id: str) -> SimpleNamespace:
    tokens, documents = ROWS[corpus_id]
    return SimpleNamespace(n_sequences=len(tokens), n_documents=max(map(max, documents)) + 1)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store whose corpora are `ROWS`, with samples of one feature in both."""
    monkeypatch.setattr("storage.catalog.sequences.read_chosen_rows", rows_of)
    for module in ("storage.catalog.sequences", "storage.corpora.rows"):
        monkeypatch.setattr(f"{module}.corpus_attributes", attributes_of)
    store = open_store(tmp_path / "store")
    with open_catalog(store.catalog, write=True) as connection:
        for token_id, text in enumerate(VOCABULARY):
            connection.execute("INSERT INTO tokens VALUES ('c', ?, ?)", [token_id, text])
        samples = [(0, 2), (0, 7), (1, 3), (2, 100), (3, 0)]
        for sample, (sequence, position) in enumerate(samples):
            row = [sample, sequence, position, 5.0 - sample]
            connection.execute("INSERT INTO samples VALUES ('c', 'ab', 1, 7, ?, ?, ?, ?, 0, NULL)", row)
        put_corpus(connection, CorpusRow("ab", "both", 4, 200, 414, 0, 0, "sha"))
    return store


def load(store: Store, keep_text: bool = True) -> None:
    corpora = [CorpusRows("a", 0), CorpusRows("b", 2)]
    with open_catalog(store.catalog, write=True) as connection:
        load_sequences(connection, store, "c", "ab", corpora, keep_text=keep_text)


def contexts(store: Store, columns: str) -> list[tuple]:
    with open_catalog(store.catalog) as connection:
        query = f"SELECT {columns} FROM contexts WHERE layer = 1 AND feature = 7 ORDER BY sample"
        return connection.execute(query).fetchall()


def test_a_context_ends_where_its_document_does(store: Store) -> None:
    load(store)
    first, *_ = contexts(store, "before, token, after, document, tokens, first_position")
    assert first == ("<s> the", " cat", " sat", 0, ["<s>", " the", " cat", " sat"], 0)
    padded = contexts(store, "before, token, after, document")[2]
    assert padded == ("<s> the cat", ".", "", 2)


def test_a_token_within_a_character_is_shown_as_the_character(store: Store) -> None:
    load(store)
    within = contexts(store, "before, token, after, tokens, first_position, position")[1]
    assert within == ("<s> the", "€", ".", ["<s>", " the", "€", "", "", "."], 4, 7)


def test_long_documents_are_cut_and_later_corpora_counted_on(store: Store) -> None:
    load(store)
    middle, start = contexts(store, "before, token, after, document, len(tokens), first_position")[3:]
    whole = TOKENS_BEFORE + 1 + TOKENS_AFTER
    assert middle == (" the" * TOKENS_BEFORE, " the", " the" * TOKENS_AFTER, 3, whole, 100 - TOKENS_BEFORE)
    assert start == ("", " cat", " cat" * TOKENS_AFTER, 4, 1 + TOKENS_AFTER, 0)


def test_causes_are_what_heads_and_embeddings_bring_the_strongest_first(store: Store) -> None:
    load(store)
    cause = "INSERT INTO contributions VALUES ('c', 'ab', 1, 7, 0, ?, 0, 0, ?, ?, ?, NULL, 'jacobian')"
    with open_catalog(store.catalog, write=True) as connection:
        for kind, position, score in [("head", 1, 3.0), ("token", 1, 3.0), ("token", 2, 3.5), ("head", 0, 0.5)]:
            connection.execute(cause, [kind, position, position - 2, score])
        connection.execute(cause, ["feature", 2, 0, 100.0])
        connection.execute(cause, ["head", 0, -2, -1.0])
    found = contexts(store, "causes")
    assert [(c["token"], c["position"], c["relative_position"]) for c in found[0][0]] == [
        (" the", 1, -1),
        (" cat", 2, 0),
    ]
    assert found[0][0][0]["share"] == pytest.approx(6 / 9.5)
    assert found[1] == (None,)


def test_private_text_is_not_in_the_catalog(store: Store, tmp_path: Path) -> None:
    load(store)
    load(store, keep_text=False)
    assert contexts(store, "activation, before, token, after, tokens")[0] == (5.0, None, None, None, None)
    with open_catalog(store.catalog) as connection:
        assert connection.execute("SELECT count(*) FROM sequences").fetchone() == (0,)
        assert connection.execute("SELECT has_text FROM corpora").fetchall() == [(False,)]


def test_a_corpus_that_is_entered_again_keeps_its_text(store: Store) -> None:
    load(store)
    with open_catalog(store.catalog, write=True) as connection:
        put_corpus(connection, CorpusRow("ab", "new", 4, 200, 414, 0, 0, "sha"))
        assert connection.execute("SELECT name, has_text FROM corpora").fetchall() == [("new", True)]


def test_an_export_has_the_texts(store: Store, tmp_path: Path) -> None:
    load(store)
    with open_catalog(store.catalog) as connection:
        export_tables(connection, tmp_path)
    query = f"SELECT tokens[3] FROM '{tmp_path / 'sequences.parquet'}' WHERE sequence = 0"
    assert duckdb.execute(query).fetchall() == [(" cat",)]


def test_activations_are_aligned_with_the_tokens_where_they_were_kept(store: Store) -> None:
    load(store)
    with open_catalog(store.catalog, write=True) as connection:
        connection.execute("INSERT INTO sample_neighbours VALUES ('c', 'ab', 1, 7, 1, [-2, 0, 1, 2], [2, 4, 1, 9])")
    found = contexts(store, "tokens, activations")
    assert found[0][1] is None
    assert found[1] == (["<s>", " the", "€", "", "", "."], [0, 2, 0, 4, 1, 9])


def test_causes_and_windows_are_those_that_explainers_see(store: Store) -> None:
    """The view's SQL against the functions of `interp`, on random rows: documents of 1 to 90 tokens, equal scores."""
    random = np.random.default_rng(0)
    kinds = np.array(["head", "token", "feature", "head"], object)
    expected = []
    with open_catalog(store.catalog, write=True) as connection:
        connection.execute("DELETE FROM samples")
        for sample in range(40):
            n_pos, padding = int(random.integers(2, 150)), int(random.integers(0, 5))
            documents = np.repeat(np.arange(n_pos), random.integers(1, 90, n_pos))[:n_pos].astype(np.int32)
            position = int(random.integers(n_pos))
            row = np.r_[np.ones(n_pos), np.full(padding, -1)].astype(np.int32)
            padded = np.r_[documents, np.full(padding, -1)].astype(np.int32)
            connection.execute("INSERT INTO sequences VALUES ('ab', ?, ?, ?)", [sample, ["x"] * n_pos, documents])
            place = [sample, sample, position, 1.0]
            connection.execute("INSERT INTO samples VALUES ('c', 'ab', 1, 7, ?, ?, ?, ?, 0, NULL)", place)
            n = int(random.integers(1, 30))
            kind, source = random.choice(kinds, n), random.integers(0, position + 1, n)
            score = random.integers(-2, 6, n).astype(np.float64)  # whole numbers: many are equal
            cause = "INSERT INTO contributions VALUES ('c', 'ab', 1, 7, ?, ?, 0, 0, ?, ?, ?, NULL, 'jacobian')"
            rows = zip(kind.tolist(), source.tolist(), (source - position).tolist(), score.tolist(), strict=True)
            connection.executemany(cause, [[sample, *one] for one in rows])
            causes = strongest_sources(kind.tolist(), source, score, min_share=LEAST_SHARE, most=MOST_CAUSES)
            first, last = text_around(row, padded, position, (TOKENS_BEFORE, TOKENS_AFTER), None)
            expected.append((first, last - first, causes or None))
    found = contexts(store, "first_position, len(tokens), list_transform(causes, lambda c: c.position)")
    assert found == expected
