"""Tokenised corpora in Zarr: rows of equal length, document boundaries kept, nothing dropped."""

import hashlib
import itertools
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from jaxtyping import Int32, Int64

from storage.recipes import file_sha256, short_hash
from storage.store import Store, whole_folder
from storage.texts import PYTHON_DOCS, read_texts

VERSION = 1
"""Bump when the same texts would give other rows."""

PADDING = -1
"""Token id of what fills up the last row."""

ROWS_PER_CHUNK = 256
DOCUMENTS_PER_BATCH = 256


class Rows(NamedTuple):
    """Rows of a corpus."""

    tokens: Int32[np.ndarray, "rows n_pos"]
    """Token ids, `PADDING` after the end of the last row."""
    documents: Int32[np.ndarray, "rows n_pos"]
    """Which document each token comes from, counted from 0; `PADDING` likewise."""


@dataclass(frozen=True)
class CorpusRecipe:
    """What determines the rows of a corpus."""

    source: str
    source_sha256: str
    tokenizer_sha256: str
    bos: int | None
    n_pos: int
    max_tokens: int | None
    text_field: str
    version: int = VERSION

    @property
    def corpus_id(self) -> str:
        return short_hash(corpus={**vars(self), "source": None})


def source_fingerprint(source: str) -> str:
    """Content hash of a text source; for `python-docs`, of the interpreter and its library's files."""
    if source == PYTHON_DOCS:
        stdlib = Path(sysconfig.get_path("stdlib"))
        files = sorted(p for p in stdlib.rglob("*.py") if "site-packages" not in p.parts)
        listing = [(str(p.relative_to(stdlib)), p.stat().st_size) for p in files]
        return hashlib.sha256(repr((sys.version, listing)).encode()).hexdigest()
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"corpus: no file {path} (expected .txt, .jsonl or .parquet, or '{PYTHON_DOCS}')")
    return file_sha256(path)


def pack(
    texts: Iterable[str], tokenizer: Any, bos: int | None, n_pos: int, max_tokens: int | None = None
) -> Iterator[Rows]:
    """Tokenise documents and pack them into rows, `ROWS_PER_CHUNK` at a time.

    Every document and every row begins with `bos` where there is one: a row that starts in the middle of
    a document gets its own. The last row is padded. At most `max_tokens` tokens are taken, whole rows.
    """
    max_rows = None if max_tokens is None else max(1, max_tokens // n_pos)
    rows = itertools.islice(_rows(_documents(texts, tokenizer, bos), bos, n_pos), max_rows)
    while chunk := list(itertools.islice(rows, ROWS_PER_CHUNK)):
        block = np.full((2, len(chunk), n_pos), PADDING, np.int32)
        for i, (tokens, documents) in enumerate(chunk):
            block[0, i, : len(tokens)] = tokens
            block[1, i, : len(documents)] = documents
        yield Rows(block[0], block[1])


def _documents(texts: Iterable[str], tokenizer: Any, bos: int | None) -> Iterator[list[int]]:
    texts = iter(texts)
    head = [] if bos is None else [bos]
    while batch := list(itertools.islice(texts, DOCUMENTS_PER_BATCH)):
        for ids in tokenizer(batch, add_special_tokens=False)["input_ids"]:
            yield head + ids


def _rows(documents: Iterable[list[int]], bos: int | None, n_pos: int) -> Iterator[tuple[list[int], list[int]]]:
    tokens: list[int] = []
    origins: list[int] = []
    for number, document in enumerate(documents):
        at = 0
        while at < len(document):
            if not tokens and bos is not None and document[at] != bos:
                tokens, origins = [bos], [number]
            taken = document[at : at + n_pos - len(tokens)]
            tokens += taken
            origins += [number] * len(taken)
            at += len(taken)
            if len(tokens) == n_pos:
                yield tokens, origins
                tokens, origins = [], []
    if tokens:
        yield tokens, origins


def write_corpus(store: Store, recipe: CorpusRecipe, tokenizer: Any) -> None:
    """Tokenise a source into the store. Memory: one chunk of rows, one batch of documents.

    Raises:
        ValueError: the source holds no token.
    """
    path = store.corpus(recipe.corpus_id)
    if path.exists():
        return
    with whole_folder(path) as partial:
        group = zarr.create_group(partial)
        n_pos, n_tokens = recipe.n_pos, 0
        arrays = [
            group.create_array(name, shape=(0, n_pos), chunks=(ROWS_PER_CHUNK, n_pos), dtype="int32")
            for name in ("tokens", "documents")
        ]
        texts = read_texts(recipe.source, recipe.text_field)
        for rows in pack(texts, tokenizer, recipe.bos, n_pos, recipe.max_tokens):
            for array, block in zip(arrays, rows, strict=True):
                array.append(block)
            n_tokens += int((rows.tokens != PADDING).sum())
        if n_tokens == 0:
            raise ValueError(f"corpus: {recipe.source} holds no text")
        group.attrs.update({**vars(recipe), "corpus_id": recipe.corpus_id, "n_tokens": n_tokens})


def read_rows(store: Store, corpus_id: str, start: int, stop: int) -> Rows:
    """Rows `start` to `stop` of a corpus."""
    group = zarr.open_group(store.corpus(corpus_id), mode="r")
    return Rows(np.asarray(group["tokens"][start:stop]), np.asarray(group["documents"][start:stop]))  # pyright: ignore


def read_rows_at(store: Store, corpus_id: str, rows: Int64[np.ndarray, " n"]) -> Int32[np.ndarray, "n n_pos"]:
    """The tokens of some rows, given in ascending order."""
    group = zarr.open_group(store.corpus(corpus_id), mode="r")
    return np.asarray(group["tokens"].oindex[rows])  # pyright: ignore


def corpus_attributes(store: Store, corpus_id: str) -> dict[str, Any]:
    """The recipe of a corpus and its size: `n_sequences`, `n_pos`, `n_tokens`, `source_sha256`, …"""
    group = zarr.open_group(store.corpus(corpus_id), mode="r")
    return {**group.attrs, "n_sequences": group["tokens"].shape[0]}  # pyright: ignore
