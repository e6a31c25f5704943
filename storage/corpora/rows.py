"""Rows of several corpora that are read one after the other, by row numbers counted through all of them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from storage.corpora.corpus import corpus_attributes, read_chosen_rows, read_rows_at
from storage.store import Store


class CorpusRows(NamedTuple):
    """One of several corpora whose rows are numbered consecutively."""

    corpus_id: str
    first_row: int
    """The number of the corpus's first row."""


def numbered(store: Store, corpus_ids: Iterable[str]) -> tuple[CorpusRows, ...]:
    """Some corpora in the order in which they were read; all must be in the store."""
    found, first_row = [], 0
    for corpus_id in corpus_ids:
        found.append(CorpusRows(corpus_id, first_row))
        first_row += corpus_attributes(store, corpus_id).n_sequences
    return tuple(found)


def by_corpus(
    store: Store, corpora: Sequence[CorpusRows], sequences: Int64[np.ndarray, " n"]
) -> Iterator[tuple[CorpusRows, Int64[np.ndarray, " m"]]]:
    """Each corpus with those of the given rows that belong to it, by the same numbers, in ascending order."""
    ordered = np.unique(sequences)
    for corpus in corpora:
        n_rows = corpus_attributes(store, corpus.corpus_id).n_sequences
        yield corpus, ordered[(ordered >= corpus.first_row) & (ordered < corpus.first_row + n_rows)]


def read_numbered_rows(
    store: Store, corpora: Sequence[CorpusRows], sequences: Int64[np.ndarray, " n"]
) -> dict[int, Int32[np.ndarray, " n_pos"]]:
    """Read the tokens of some rows by number."""
    found: dict[int, np.ndarray] = {}
    for corpus, own in by_corpus(store, corpora, sequences):
        if len(own):
            rows = read_rows_at(store, corpus.corpus_id, own - corpus.first_row)
            found.update(zip(own.tolist(), rows, strict=True))
    return found


def read_numbered_documents(
    store: Store, corpora: Sequence[CorpusRows], sequences: Int64[np.ndarray, " n"]
) -> dict[int, Int32[np.ndarray, " n_pos"]]:
    """Read the document of each token of some rows, by the rows' numbers; documents are numbered consecutively as
    well."""
    found: dict[int, np.ndarray] = {}
    first_document = 0
    for corpus, own in by_corpus(store, corpora, sequences):
        if len(own):
            documents = read_chosen_rows(store, corpus.corpus_id, own - corpus.first_row).documents
            found.update(zip(own.tolist(), documents + np.int32(first_document), strict=True))
        first_document += corpus_attributes(store, corpus.corpus_id).n_documents
    return found
