"""Tokenised corpora in Zarr: rows of equal length with document boundaries, tokenised once, without dropping
anything."""

import os
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zarr
from jaxtyping import Int32, Int64
from transformers import PreTrainedTokenizerBase
from zarr.codecs import ZstdCodec
from zarr.types import ArrayV3

from storage.arrays import WHOLE, open_array, read_attributes, stamp_metadata, with_checksum
from storage.arrays import read_rows as read_array_rows
from storage.corpora.held_out import Draw, draw_documents
from storage.corpora.packing import PADDING, TOKENS_PER_BLOCK, Block, Cut, Layout, Packer, Rows, Sides, pack, two_sides
from storage.corpora.texts import Field, Position, read_texts
from storage.corpora.tokens import PlainTexts, ReadyTokens, SpecialTokens, Tokens
from storage.hashing import short_hash
from storage.layout import UNFINISHED
from storage.store import Store, read_as, write_json

VERSION = 3
"""Raise it when the same texts would give other rows."""

ROWS_PER_CHUNK = 256

RECEIPT = "receipt.json"


@dataclass(frozen=True)
class CorpusRecipe:
    """Everything that the rows of a corpus depend on."""

    source: str
    """The pinned source of the texts."""
    source_sha256: str
    """Fingerprint of the source."""
    tokenizer_sha256: str
    bos: int | None
    n_pos: int
    max_tokens: int | None
    text_field: str
    layout: Layout = "packed"
    held_out: float = 0.0
    """Share of the documents that are put into rows of their own, from which no statistic or sample is computed."""
    held_out_seed: int = 0
    ready_tokens: bool = False
    """Whether `text_field` has token ids instead of texts."""
    special_tokens: SpecialTokens = "as_tokens"
    version: int = VERSION

    @property
    def corpus_id(self) -> str:
        """The hash of everything above but the path of the source, which its own hash stands for."""
        return short_hash(corpus={**vars(self), "source": None})

    @property
    def field(self) -> Field:
        """The field or column with the documents."""
        return Field(self.text_field, self.ready_tokens)

    def tokens(self, tokenizer: PreTrainedTokenizerBase, n_tokens: int) -> Tokens:
        """The tokenizer of its texts; `n_tokens` is the number of token ids that the model can read."""
        if self.ready_tokens:
            return ReadyTokens(n_tokens)
        return PlainTexts(tokenizer) if self.special_tokens == "as_text" else tokenizer


HELD_OUT = "held_out_"

SIDES = ("", HELD_OUT)
"""Prefixes of the array names of each side."""


@dataclass(frozen=True)
class PackerState:
    """The fields of a `Packer` that change while it fills rows."""

    tokens: list[int]
    documents: list[int]
    n_rows: int
    last_document: int
    n_left: int


"""The state that a packer needs to continue."""


@dataclass(frozen=True)
class CorpusAttributes:
    """What the rows of a corpus depend on, as in `CorpusRecipe`, and its size."""

    corpus_id: str
    source: str
    source_sha256: str
    tokenizer_sha256: str
    bos: int | None
    n_pos: int
    """Tokens in a row."""
    max_tokens: int | None
    text_field: str
    version: int
    layout: Layout
    held_out: float
    held_out_seed: int
    n_sequences: int
    """Rows for statistics and samples."""
    n_tokens: int
    """Tokens in them, without padding."""
    n_held_out_sequences: int
    """Rows of the held-out documents."""
    n_held_out_tokens: int
    n_documents: int
    """Number of documents, including held-out ones."""
    ready_tokens: bool = False
    """Whether the source had token ids."""
    special_tokens: SpecialTokens = "as_tokens"
    passage: int | None = None
    """Length in characters of the passages that count as documents, if there are too few documents to draw from."""
    cut: Cut | None = None
    """Where `max_tokens` cut off the text."""


class Receipt(NamedTuple):
    """What is finished of a corpus, with all that is needed to continue."""

    source: str
    source_sha256: str
    draw: Draw
    packers: tuple[PackerState, ...] = ()
    """The state of each side."""
    n_tokens: tuple[int, int] = (0, 0)
    """Tokens so far, in the main rows and in the held-out rows."""
    n_documents: int = 0
    """Documents begun."""
    is_held_out: bool = False
    """Whether the last document is held out."""
    end: Position = Position()
    """The position at which reading continues."""
    cut: Cut | None = None

    @property
    def n_rows(self) -> list[int]:
        """Number of rows of each side."""
        return [state.n_rows for state in self.packers] or [0, 0]

    def sides(self, recipe: "CorpusRecipe") -> Sides:
        """The packers of both sides in their last state."""
        sides = two_sides(recipe.bos, recipe.n_pos, recipe.layout, recipe.max_tokens, self.draw, recipe.held_out)
        for packer, state in zip((sides.rows, sides.held_out), self.packers, strict=False):
            vars(packer).update(asdict(state))
        sides.n_documents, sides.is_held_out = self.n_documents, self.is_held_out
        return sides

    def after(self, block: Block, sides: Sides) -> "Receipt":
        """The receipt after one more block is written."""
        counts = [int((rows.tokens != PADDING).sum()) for rows in (block.rows, block.held_out)]
        return self._replace(
            packers=(_state(sides.rows), _state(sides.held_out)),
            n_tokens=(self.n_tokens[0] + counts[0], self.n_tokens[1] + counts[1]),
            n_documents=sides.n_documents,
            is_held_out=sides.is_held_out,
            end=block.end,
            cut=block.cut,
        )


def _state(packer: Packer) -> PackerState:
    return PackerState(packer.tokens, packer.documents, packer.n_rows, packer.last_document, packer.n_left)


def write_corpus(
    store: Store, recipe: CorpusRecipe, tokenizer: Tokens, tokens_per_block: int = TOKENS_PER_BLOCK
) -> None:
    """Tokenise a source into the store; if an earlier run was killed, continue after its last finished block.

    Memory: a block of rows and a batch of texts of about half a million characters, plus the longest line or cell of
    the source. Attributes of the result: the recipe, `corpus_id`, `n_tokens` and `n_held_out_tokens` (without padding),
    `n_documents`, `passage` (see `Draw`), and if `max_tokens` cut off the text, `cut` (see `Cut`), else null.

    Raises:
        ValueError: the source cannot be read, or has no text.
    """
    path = store.corpus(recipe.corpus_id)
    if not path.exists():
        _remove_outdated(path.parent, recipe)
        unfinished = path.with_name(path.name + UNFINISHED)
        receipt = _tokenise(unfinished, recipe, tokenizer, tokens_per_block)
        n_documents = receipt.cut.after_document + 1 if receipt.cut else receipt.n_documents
        if sum(receipt.n_tokens) == (0 if recipe.bos is None else n_documents):
            shutil.rmtree(unfinished)
            raise ValueError(f"corpus: {recipe.source} holds no text")
        cut = receipt.cut and receipt.cut._asdict()
        zarr.open_group(unfinished).attrs.put(
            {
                **vars(recipe),
                "corpus_id": recipe.corpus_id,
                "n_tokens": receipt.n_tokens[0],
                "n_held_out_tokens": receipt.n_tokens[1],
                "n_documents": n_documents,
                "passage": receipt.draw.passage,
                "cut": cut,
            }
        )
        stamp_metadata(unfinished)
        unfinished.replace(path)
    (path / RECEIPT).unlink(missing_ok=True)


def _tokenise(folder: Path, recipe: CorpusRecipe, tokenizer: Tokens, tokens_per_block: int) -> Receipt:
    """Write all rows that do not exist yet, and a receipt after each block; returns the last receipt."""
    receipt = _receipt(folder) or Receipt(
        recipe.source,
        recipe.source_sha256,
        draw_documents(recipe.source, recipe.field, recipe.held_out, recipe.held_out_seed),
    )
    group, sides = _group(folder, recipe.n_pos, receipt.n_rows), receipt.sides(recipe)
    if sides.is_full:
        return receipt
    texts = read_texts(recipe.source, recipe.field, receipt.end, receipt.draw.passage)
    for block in pack(texts, tokenizer, sides, tokens_per_block):
        for side, rows in zip(SIDES, (block.rows, block.held_out), strict=True):
            _append(folder, group, side, rows)
        receipt = receipt.after(block, sides)
        packers = [asdict(state) for state in receipt.packers]
        write_json(folder / RECEIPT, {**receipt._asdict(), "packers": packers})
    return receipt._replace(n_documents=sides.n_documents)


def _receipt(folder: Path) -> Receipt | None:
    """The last receipt of an unfinished corpus, or None."""
    try:
        return read_as(folder / RECEIPT, Receipt)
    except (OSError, ValueError):
        return None  # nothing was finished


def _group(folder: Path, n_pos: int, n_rows: list[int]) -> zarr.Group:
    """Open an unfinished corpus with as many rows of each side as its receipt says."""
    if any(n_rows):
        group = zarr.open_group(folder)
        for side, n in zip(SIDES, n_rows, strict=True):
            for name in Rows._fields:
                _array(group, side + name).resize((n, n_pos))
        return group
    shutil.rmtree(folder, ignore_errors=True)
    group = zarr.create_group(folder)
    for side in SIDES:
        for name in Rows._fields:
            chunks, codecs = (ROWS_PER_CHUNK, n_pos), with_checksum(ZstdCodec())
            group.create_array(side + name, shape=(0, n_pos), chunks=chunks, dtype="int32", compressors=codecs)
    return group


def _append(folder: Path, group: zarr.Group, side: str, rows: Rows) -> None:
    """Append rows and sync them to disk, so that no receipt exists without its rows."""
    for name, block in rows._asdict().items():
        array = _array(group, side + name).with_config(WHOLE)
        first = array.shape[0] // ROWS_PER_CHUNK
        array.append(block)
        for chunk in range(first, -(-array.shape[0] // ROWS_PER_CHUNK)):
            _sync(folder / (side + name) / "c" / str(chunk) / "0")
        _sync(folder / (side + name) / "zarr.json")


def _array(group: zarr.Group, name: str) -> ArrayV3:
    array = group[name]
    assert isinstance(array, zarr.Array), name
    return array


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove_outdated(corpora: Path, recipe: CorpusRecipe) -> None:
    """Remove unfinished corpora that cannot be continued: they have no finished block, or the source has changed."""
    for folder in corpora.glob(f"*{UNFINISHED}"):
        begun = _receipt(folder)
        if begun is None or (begun.source == recipe.source and begun.source_sha256 != recipe.source_sha256):
            shutil.rmtree(folder)


def read_rows(store: Store, corpus_id: str, start: int, stop: int) -> Rows:
    """Read rows `start` to `stop` of a corpus, without held-out rows."""
    end = open_array(store.corpus(corpus_id) / "tokens").shape[0]
    return read_chosen_rows(store, corpus_id, np.arange(start, min(stop, end)))


def read_rows_at(store: Store, corpus_id: str, rows: Int64[np.ndarray, " n"]) -> Int32[np.ndarray, "n n_pos"]:
    """Read the tokens of some rows, given in ascending order, without held-out rows."""
    return read_array_rows(store.corpus(corpus_id) / "tokens", rows)


def read_chosen_rows(store: Store, corpus_id: str, rows: Int64[np.ndarray, " n"], side: str = "") -> Rows:
    """Read some rows of a side (one of `SIDES`), given in ascending order, with the document of each token."""
    return Rows(*(read_array_rows(store.corpus(corpus_id) / (side + name), rows) for name in Rows._fields))


def corpus_attributes(store: Store, corpus_id: str) -> CorpusAttributes:
    """The recipe of a corpus and its size."""
    path = store.corpus(corpus_id)
    sizes = {f"n_{side}sequences": open_array(path / f"{side}tokens").shape[0] for side in SIDES}
    stored = {**read_attributes(path), **sizes}
    values = {field.name: stored[field.name] for field in fields(CorpusAttributes) if field.name in stored}
    return CorpusAttributes(**{**values, "cut": Cut(**stored["cut"]) if stored.get("cut") else None})
