"""Rows of equal length from documents of any length."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int32

from interp.activations.positions import PADDING
from storage.corpora.held_out import Draw
from storage.corpora.texts import Piece, Position
from storage.corpora.tokens import Tokens
from storage.tokenising import token_ids

Layout = Literal["packed", "padded"]
"""packed: documents follow one another, and only the last row is padded. padded: each document begins a row."""

TOKENS_PER_BLOCK = 2**19
PIECES_PER_BATCH = 256
CHARACTERS_PER_BATCH = 2**19

Row = tuple[list[int], list[int]]
"""Tokens, and the document that each of them is from."""


class Rows(NamedTuple):
    """Rows of a corpus."""

    tokens: Int32[np.ndarray, "rows n_pos"]
    """Token ids, with `PADDING` at the end of the last row, or for the layout `padded` of any row."""
    documents: Int32[np.ndarray, "rows n_pos"]
    """The document of each token, counted from 0; `PADDING` in padding."""


class Cut(NamedTuple):
    """Where a corpus was cut off."""

    after_document: int
    """The last document of which a part was taken."""
    n_tokens_known: int
    """Tokens that were read and not taken; what was not read is not counted."""


class Block(NamedTuple):
    """Some rows, and the position at which reading continues after them."""

    rows: Rows
    held_out: Rows
    end: Position
    cut: Cut | None


@dataclass
class Packer:
    """Fills rows. Between two blocks, its state and a position in the source are all that is needed to continue."""

    bos: int | None
    n_pos: int
    layout: Layout = "packed"
    max_rows: int | None = None
    """Largest number of rows."""
    tokens: list[int] = field(default_factory=list)
    """The row that is not full yet."""
    documents: list[int] = field(default_factory=list)
    n_rows: int = 0
    """Rows filled."""
    last_document: int = -1
    """Number of the last document with tokens in these rows."""
    n_left: int = 0
    """Tokens that were not taken, because all rows are full."""

    @property
    def is_full(self) -> bool:
        """Whether there are as many rows as were asked for."""
        return self.n_rows == self.max_rows

    def add(self, tokens: list[int], document: int, begins: bool) -> Iterator[Row]:
        """Add the tokens of a document, or its next part; returns the rows that become full.

        A document begins with `bos` if there is one, and so does a row that starts in the middle of a document, unless
        the document has that very token there.
        """
        if begins and self.layout == "padded":
            yield from self.rest()
        if begins and self.bos is not None and tokens[:1] != [self.bos]:
            tokens = [self.bos, *tokens]
        at = 0
        while at < len(tokens) and not self.is_full:
            if not self.tokens and self.bos is not None and tokens[at] != self.bos:
                self._append([self.bos], document)
            n_taken = self.n_pos - len(self.tokens)
            self._append(tokens[at : at + n_taken], document)
            at += n_taken
            if len(self.tokens) == self.n_pos:
                yield from self.rest()
        self.n_left += sum(token != self.bos for token in tokens[at:])

    def rest(self) -> Iterator[Row]:
        """The row that is not full, if it has tokens."""
        if self.tokens:
            row = self.tokens, self.documents
            self.n_rows, self.last_document = self.n_rows + 1, self.documents[-1]
            self.tokens, self.documents = [], []
            yield row

    def _append(self, tokens: list[int], document: int) -> None:
        self.tokens += tokens
        self.documents += [document] * len(tokens)


@dataclass
class Sides:
    """Fills the rows of both sides of a corpus: of the held-out documents, and of the others."""

    rows: Packer
    held_out: Packer
    draw: Draw
    n_documents: int = 0
    """Documents begun."""
    is_held_out: bool = False
    """Whether the last document is held out."""

    @property
    def is_full(self) -> bool:
        """Whether there are as many rows as were asked for, of both sides where documents are held out."""
        return self.rows.is_full and (self.held_out.is_full or not self.draw.below)

    def add(self, piece: Piece, tokens: list[int]) -> tuple[list[Row], list[Row]]:
        """Add a piece; returns the rows of each side that become full. Passages count as documents."""
        begins = not piece.before or self.draw.passage is not None
        if begins:
            self.n_documents += 1
            self.is_held_out = self.draw.holds_out(piece.text)
        packer = self.held_out if self.is_held_out else self.rows
        filled = list(packer.add(tokens, self.n_documents - 1, begins))
        return ([], filled) if self.is_held_out else (filled, [])

    def cut(self, more: bool) -> Cut | None:
        """What was read and not used; `more`: whether there is more to read."""
        n_left = self.rows.n_left + self.held_out.n_left
        last = max(self.rows.last_document, self.held_out.last_document)
        return Cut(last, n_left) if n_left or more else None


def one_side(bos: int | None, n_pos: int, layout: Layout = "packed", max_rows: int | None = None) -> Sides:
    """A corpus without held-out documents."""
    return Sides(Packer(bos, n_pos, layout, max_rows), Packer(bos, n_pos, layout, 0), Draw())


def two_sides(bos: int | None, n_pos: int, layout: Layout, max_tokens: int | None, draw: Draw, share: float) -> Sides:
    """Divide `max_tokens`: the share `share` of the rows is for held-out documents, at least one row if there are two
    or more."""
    limit = max_rows(max_tokens, n_pos)
    n_held_out = limit and min(limit - 1, max(1, round(share * limit)) if draw.below else 0)
    n_rows = None if limit is None or n_held_out is None else limit - n_held_out
    return Sides(Packer(bos, n_pos, layout, n_rows), Packer(bos, n_pos, layout, n_held_out), draw)


def pack(
    pieces: Iterable[Piece], tokenizer: Tokens, sides: Sides, tokens_per_block: int = TOKENS_PER_BLOCK
) -> Iterator[Block]:
    """Tokenise documents and pack them into rows, a block of about `tokens_per_block` tokens at a time.

    Nothing is dropped silently: the last row is padded, and what exceeds the last row of a side with a limit is counted
    in the last block. When one side is full, reading continues for the other.
    """
    rows: tuple[list[Row], list[Row]] = ([], [])
    end, n_pos, tokenised = Position(), sides.rows.n_pos, _tokenised(pieces, tokenizer)
    for piece, tokens in tokenised:
        for one, filled in zip(rows, sides.add(piece, tokens), strict=True):
            one.extend(filled)
        end = piece.end
        if sides.is_full:
            break
        if sum(map(len, rows)) * n_pos >= tokens_per_block:
            yield Block(_stacked(rows[0], n_pos), _stacked(rows[1], n_pos), end, None)
            rows = ([], [])
    for one, packer in zip(rows, (sides.rows, sides.held_out), strict=True):
        one.extend(packer.rest())
    cut = sides.cut(next(tokenised, None) is not None)
    if any(rows) or cut:
        yield Block(_stacked(rows[0], n_pos), _stacked(rows[1], n_pos), end, cut)


def _stacked(rows: list[Row], n_pos: int) -> Rows:
    block = np.full((2, len(rows), n_pos), PADDING, np.int32)
    for i, (tokens, documents) in enumerate(rows):
        block[0, i, : len(tokens)] = tokens
        block[1, i, : len(documents)] = documents
    return Rows(block[0], block[1])


def _tokenised(pieces: Iterable[Piece], tokenizer: Tokens) -> Iterator[tuple[Piece, list[int]]]:
    """Each piece with its tokens. A piece that continues a document is tokenised with the character before it."""
    for batch in _batches(pieces):
        found = token_ids(tokenizer, [piece.before + piece.text for piece in batch])
        for piece, tokens in zip(batch, found, strict=True):
            if not piece.before:
                yield piece, tokens
                continue
            (head,) = token_ids(tokenizer, [piece.before])
            if tokens[: len(head)] == head:
                yield piece, tokens[len(head) :]
            else:
                yield piece, token_ids(tokenizer, [piece.text])[0]


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch, n_characters = [], 0
    for piece in pieces:
        batch.append(piece)
        n_characters += len(piece.text)
        if len(batch) == PIECES_PER_BATCH or n_characters >= CHARACTERS_PER_BATCH:
            yield batch
            batch, n_characters = [], 0
    if batch:
        yield batch


def max_rows(max_tokens: int | None, n_pos: int) -> int | None:
    """The number of whole rows for this many tokens, including padding; at least one."""
    return None if max_tokens is None else max(1, max_tokens // n_pos)
