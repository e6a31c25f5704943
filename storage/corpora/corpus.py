"""Tokenised corpora in Zarr: rows of equal length, document boundaries kept, nothing dropped, tokenised once."""

import math
import os
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import zarr
from jaxtyping import Int32, Int64
from zarr.codecs import ZstdCodec

from storage.arrays import WHOLE, open_array, read_attributes, stamp_metadata, with_checksum
from storage.arrays import read_rows as read_array_rows
from storage.corpora.packing import PADDING, TOKENS_PER_BLOCK, Block, Cut, Layout, Packer, Rows, max_rows, pack
from storage.corpora.texts import Position, read_texts
from storage.layout import UNFINISHED
from storage.recipes import short_hash
from storage.store import Store, read_json, write_json

VERSION = 1
"""Bump when the same texts would give other rows."""

ROWS_PER_CHUNK = 256

RECEIPT = "receipt.json"


@dataclass(frozen=True)
class CorpusRecipe:
    """What determines the rows of a corpus."""

    source: str
    """Where the texts are: a pinned source."""
    source_sha256: str
    """Its fingerprint."""
    tokenizer_sha256: str
    bos: int | None
    n_pos: int
    max_tokens: int | None
    text_field: str
    layout: Layout = "packed"
    version: int = VERSION

    @property
    def corpus_id(self) -> str:
        ingredients = {**vars(self), "source": None}
        if self.layout == "packed":
            del ingredients["layout"]  # so that corpora keep their names that are older than the setting
        return short_hash(corpus=ingredients)


@dataclass(frozen=True)
class CorpusAttributes:
    """What determined the rows of a corpus, as in `CorpusRecipe`, and how much there is of it."""

    corpus_id: str
    source: str
    source_sha256: str
    tokenizer_sha256: str
    bos: int | None
    n_pos: int
    """Tokens a row."""
    max_tokens: int | None
    text_field: str
    version: int
    n_sequences: int
    """Rows."""
    n_tokens: int
    """Padding left out."""
    n_documents: int
    layout: Layout = "packed"
    cut: Cut | None = None
    """Where `max_tokens` cut something off."""


class Receipt(NamedTuple):
    """What is finished of a corpus, and all that going on needs."""

    source: str
    source_sha256: str
    n_rows: int = 0
    n_tokens: int = 0
    n_documents: int = 0
    """Documents begun."""
    tokens: tuple[int, ...] = ()
    """The row that is not full yet."""
    documents: tuple[int, ...] = ()
    end: Position = Position()
    """From where reading goes on."""
    cut: Cut | None = None


def write_corpus(store: Store, recipe: CorpusRecipe, tokenizer: Any, tokens_per_block: int = TOKENS_PER_BLOCK) -> None:
    """Tokenise a source into the store; where an earlier run was killed, from its last finished block on.

    Memory: a block of rows and a batch of texts of about half a million characters, plus the longest line or cell of
    the source. Attributes of what is written: the recipe, `corpus_id`, `n_tokens` (padding left out), `n_documents`,
    and if `max_tokens` cut something off, `cut` (see `Cut`), else null.

    Raises:
        ValueError: the source cannot be read, or holds no text.
    """
    path = store.corpus(recipe.corpus_id)
    if not path.exists():
        _remove_outdated(path.parent, recipe)
        unfinished = path.with_name(path.name + UNFINISHED)
        receipt = _tokenise(unfinished, recipe, tokenizer, tokens_per_block)
        n_documents = receipt.cut.after_document + 1 if receipt.cut else receipt.n_documents
        if receipt.n_tokens == (0 if recipe.bos is None else n_documents):
            shutil.rmtree(unfinished)
            raise ValueError(f"corpus: {recipe.source} holds no text")
        cut = receipt.cut and receipt.cut._asdict()
        zarr.open_group(unfinished).attrs.put(
            {
                **vars(recipe),
                "corpus_id": recipe.corpus_id,
                "n_tokens": receipt.n_tokens,
                "n_documents": n_documents,
                "cut": cut,
            }
        )
        stamp_metadata(unfinished)
        unfinished.replace(path)
    (path / RECEIPT).unlink(missing_ok=True)


def _tokenise(folder: Path, recipe: CorpusRecipe, tokenizer: Any, tokens_per_block: int) -> Receipt:
    """Write all rows that are not there yet, and a receipt after each block; returns the last."""
    receipt = _receipt(folder) or Receipt(recipe.source, recipe.source_sha256)
    group = _group(folder, recipe.n_pos, receipt.n_rows)
    packer = Packer(
        recipe.bos, recipe.n_pos, recipe.layout, list(receipt.tokens), list(receipt.documents), receipt.n_documents
    )
    limit = max_rows(recipe.max_tokens, recipe.n_pos)
    if receipt.n_rows == limit:
        return receipt
    texts = read_texts(recipe.source, recipe.text_field, receipt.end)
    for block in pack(texts, tokenizer, packer, limit and limit - receipt.n_rows, tokens_per_block):
        _append(folder, group, block.rows)
        receipt = _after(receipt, block, packer)
        write_json(folder / RECEIPT, receipt._asdict())
    return receipt._replace(n_documents=packer.n_documents)


def _after(receipt: Receipt, block: Block, packer: Packer) -> Receipt:
    return receipt._replace(
        n_rows=receipt.n_rows + len(block.rows.tokens),
        n_tokens=receipt.n_tokens + int((block.rows.tokens != PADDING).sum()),
        n_documents=packer.n_documents,
        tokens=tuple(packer.tokens),
        documents=tuple(packer.documents),
        end=block.end,
        cut=block.cut,
    )


def _receipt(folder: Path) -> Receipt | None:
    """The last receipt of an unfinished corpus, if there is one."""
    try:
        receipt = Receipt(**read_json(folder / RECEIPT))
        return receipt._replace(end=Position(*receipt.end), cut=receipt.cut and Cut(*receipt.cut))
    except (OSError, ValueError, TypeError):
        return None  # nothing was finished


def _group(folder: Path, n_pos: int, n_rows: int) -> zarr.Group:
    """An unfinished corpus with as many rows as its receipt says."""
    if n_rows > 0:
        group = zarr.open_group(folder)
        for name in Rows._fields:
            group[name].resize((n_rows, n_pos))  # pyright: ignore
        return group
    shutil.rmtree(folder, ignore_errors=True)
    group = zarr.create_group(folder)
    for name in Rows._fields:
        chunks, codecs = (ROWS_PER_CHUNK, n_pos), with_checksum(ZstdCodec())
        group.create_array(name, shape=(0, n_pos), chunks=chunks, dtype="int32", compressors=codecs)
    return group


def _append(folder: Path, group: zarr.Group, rows: Rows) -> None:
    """Append rows and see them onto the disk, so that no receipt is there without them."""
    for name, block in rows._asdict().items():
        array: Any = cast("zarr.Array[Any]", group[name]).with_config(WHOLE)
        first = array.shape[0] // ROWS_PER_CHUNK
        array.append(block)
        for chunk in range(first, -(-array.shape[0] // ROWS_PER_CHUNK)):
            _sync(folder / name / "c" / str(chunk) / "0")
        _sync(folder / name / "zarr.json")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove_outdated(corpora: Path, recipe: CorpusRecipe) -> None:
    """Remove what was begun and will not be gone on with: nothing was finished, or the source has changed since."""
    for folder in corpora.glob(f"*{UNFINISHED}"):
        begun = _receipt(folder)
        if begun is None or (begun.source == recipe.source and begun.source_sha256 != recipe.source_sha256):
            shutil.rmtree(folder)


def read_rows(store: Store, corpus_id: str, start: int, stop: int) -> Rows:
    """Rows `start` to `stop` of a corpus."""
    end = open_array(store.corpus(corpus_id) / "tokens").shape[0]
    return read_chosen_rows(store, corpus_id, np.arange(start, min(stop, end)))


def read_rows_at(store: Store, corpus_id: str, rows: Int64[np.ndarray, " n"]) -> Int32[np.ndarray, "n n_pos"]:
    """The tokens of some rows, given in ascending order."""
    return read_array_rows(store.corpus(corpus_id) / "tokens", rows)


def read_chosen_rows(store: Store, corpus_id: str, rows: Int64[np.ndarray, " n"]) -> Rows:
    """Some rows, given in ascending order, with the documents that their tokens are from."""
    return Rows(*(read_array_rows(store.corpus(corpus_id) / name, rows) for name in Rows._fields))


def corpus_attributes(store: Store, corpus_id: str) -> CorpusAttributes:
    """The recipe of a corpus and its size."""
    path = store.corpus(corpus_id)
    stored = {**read_attributes(path), "n_sequences": open_array(path / "tokens").shape[0]}
    values = {field.name: stored[field.name] for field in fields(CorpusAttributes) if field.name in stored}
    return CorpusAttributes(**{**values, "cut": Cut(**stored["cut"]) if stored.get("cut") else None})


def seen_rows(n_sequences: int, held_out: float) -> range:
    """The rows from which statistics and samples are taken: all but the last ones, of which `held_out` is the share."""
    return range(n_sequences - math.ceil(held_out * n_sequences))


def held_out_rows(n_sequences: int, held_out: float) -> range:
    """The rows on which descriptions are judged."""
    return range(len(seen_rows(n_sequences, held_out)), n_sequences)
