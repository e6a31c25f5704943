"""Rows of several corpora by numbers counted through all of them."""

from pathlib import Path

import duckdb
import numpy as np
import pytest

from storage.catalog.database import bring_forward
from storage.corpora.corpus import CorpusRecipe, read_rows, write_corpus
from storage.corpora.rows import numbered, read_numbered_rows
from storage.hashing import short_hash
from storage.sample_patterns import corpora_of
from storage.store import Store
from tests.storage.letters import Letters


@pytest.fixture
def store(tmp_path: Path) -> tuple[Store, list[str]]:
    """A store with two corpora."""
    store, names = Store(tmp_path), []
    for name, text in (("a", "abcdefghijklmnop"), ("b", "qrstuvwxyzabcdefghijklmno")):
        path = tmp_path / f"{name}.txt"
        path.write_text(text)
        recipe = CorpusRecipe(str(path), name, "letters", 0, 4, None, "text")
        write_corpus(store, recipe, Letters())
        names.append(recipe.corpus_id)
    return store, names


def test_rows_are_those_of_the_corpus_that_has_them(store: tuple[Store, list[str]]) -> None:
    place, names = store
    whole = [read_rows(place, name, 0, 100).tokens for name in names]
    corpora = numbered(place, names)
    assert [corpus.first_row for corpus in corpora] == [0, len(whole[0])]
    wanted = np.array([len(whole[0]) + 2, 1, len(whole[0]), 1, 0])
    found = read_numbered_rows(place, corpora, wanted)
    expected = np.concatenate(whole)
    assert sorted(found) == sorted(set(wanted.tolist()))
    for number, row in found.items():
        np.testing.assert_array_equal(row, expected[number])


def test_a_catalog_of_an_earlier_version_learns_from_which_corpora_one_was_read() -> None:
    """Several corpora of the same name may be there: the hash tells which they were."""
    joined = short_hash(corpora=["two", "one"])
    with duckdb.connect() as connection:
        bring_forward(connection)
        rows = [
            ("one", "a.txt", "1"),
            ("other", "b.txt", "2"),
            ("two", "b.txt", "3"),
            (joined, "b.txt + a.txt", joined),
        ]
        connection.executemany("INSERT INTO corpora (corpus_id, name, sha256) VALUES (?, ?, ?)", rows)
        assert corpora_of(connection, joined) == (joined,)
        bring_forward(connection)
        assert corpora_of(connection, joined) == ("two", "one")
        assert corpora_of(connection, "two") == ("two",)
