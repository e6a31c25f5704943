"""The text of the corpus rows that have samples, for the view `contexts`."""

from collections.abc import Iterator, Sequence

import duckdb
import numpy as np
import pyarrow as pa

from interp.characters import is_bytes, joined_characters
from storage.catalog.database import check_key
from storage.corpora.corpus import corpus_attributes, read_chosen_rows
from storage.corpora.packing import PADDING
from storage.corpora.rows import CorpusRows, by_corpus
from storage.store import Store

ROWS_AT_ONCE = 2048
"""Rows in memory at a time while loading."""


def load_sequences(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    checkpoint_id: str,
    corpus_id: str,
    corpora: Sequence[CorpusRows],
    *,
    keep_text: bool,
) -> None:
    """Load the text of every row that has a sample into the catalog, or remove it if it is to be kept private.

    `corpus_id` is the id in the rows of samples; `corpora` are the corpora that were read, in order. Texts of tokens
    are from the checkpoint's vocabulary in the catalog.

    Memory: `ROWS_AT_ONCE` rows.
    """
    connection.execute("DELETE FROM sequences WHERE corpus_id = ?", [corpus_id])
    connection.execute("UPDATE corpora SET has_text = ? WHERE corpus_id = ?", [keep_text, corpus_id])
    if not keep_text:
        return
    query = "SELECT DISTINCT sequence FROM samples WHERE corpus_id = ? ORDER BY sequence"
    sampled = connection.execute(query, [corpus_id]).fetchnumpy()["sequence"].astype(np.int64)
    vocabulary = _vocabulary(connection, checkpoint_id)
    for block in _blocks(store, corpora, sampled, vocabulary):
        block = block.append_column("corpus_id", pa.repeat(corpus_id, len(block)))
        connection.register("block_of_rows", block)
        connection.execute("INSERT INTO sequences BY NAME SELECT * FROM block_of_rows")
        connection.unregister("block_of_rows")
    check_key(connection, "sequences")


def _vocabulary(connection: duckdb.DuckDBPyConnection, checkpoint_id: str) -> np.ndarray:
    """The text of every token id."""
    query = "SELECT text FROM tokens WHERE checkpoint_id = ? AND token_id >= 0 ORDER BY token_id"
    return np.array([text for (text,) in connection.execute(query, [checkpoint_id]).fetchall()], object)


def _blocks(
    store: Store, corpora: Sequence[CorpusRows], sampled: np.ndarray, vocabulary: np.ndarray
) -> Iterator[pa.Table]:
    """Sampled rows in the form of the table `sequences`."""
    split = np.array([is_bytes(text) for text in vocabulary])
    first_document = 0
    for corpus, own in by_corpus(store, corpora, sampled):
        for start in range(0, len(own), ROWS_AT_ONCE):
            block = own[start : start + ROWS_AT_ONCE]
            rows = read_chosen_rows(store, corpus.corpus_id, block - corpus.first_row)
            texts, documents = [], []
            for row, of in zip(rows.tokens, rows.documents, strict=True):
                real = row[row != PADDING]
                tokens = vocabulary[real].tolist()
                texts.append(joined_characters(tokens) if split[real].any() else tokens)
                documents.append(of[: len(real)] + first_document)
            yield pa.table(
                {
                    "sequence": pa.array(block),
                    "tokens": pa.array(texts, pa.list_(pa.string())),
                    "documents": pa.array(documents, pa.list_(pa.int32())),
                }
            )
        first_document += corpus_attributes(store, corpus.corpus_id).n_documents
