"""Rows of equal length from documents of any length."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int32

from storage.corpora.texts import Piece, Position

PADDING = -1
"""Token id of what fills up a row."""

Layout = Literal["packed", "padded"]
"""packed: one document after the other, only the last row padded. padded: each document begins a row."""

TOKENS_PER_BLOCK = 2**19
PIECES_PER_BATCH = 256
CHARACTERS_PER_BATCH = 2**19

Row = tuple[list[int], list[int]]
"""Tokens, and the document that each comes from."""


class Rows(NamedTuple):
    """Rows of a corpus."""

    tokens: Int32[np.ndarray, "rows n_pos"]
    """Token ids, `PADDING` after the end of the last row or, padded, of any."""
    documents: Int32[np.ndarray, "rows n_pos"]
    """Which document each token comes from, counted from 0; `PADDING` likewise."""


class Cut(NamedTuple):
    """Where a corpus was cut off."""

    after_document: int
    """The last document of which something was taken."""
    n_tokens_known: int
    """Tokens that were read and not taken; what was not read is not known."""


class Block(NamedTuple):
    """Some rows, and from where to go on after them."""

    rows: Rows
    end: Position
    cut: Cut | None


@dataclass
class Packer:
    """Fills rows. Between two blocks, its state and a position are all that is needed to go on."""

    bos: int | None
    n_pos: int
    layout: Layout = "packed"
    tokens: list[int] = field(default_factory=list)
    """The row that is not full yet."""
    documents: list[int] = field(default_factory=list)
    n_documents: int = 0
    """Documents begun."""

    def add(self, tokens: list[int], begins: bool) -> Iterator[Row]:
        """The rows that a document's tokens, or the next of them, make full.

        A document begins with `bos` where there is one, and so does a row that starts in the middle of a document
        (unless the document has that very token there).
        """
        if begins:
            self.n_documents += 1
            if self.layout == "padded":
                yield from self.rest()
            if self.bos is not None:
                tokens = [self.bos, *tokens]
        at = 0
        while at < len(tokens):
            if not self.tokens and self.bos is not None and tokens[at] != self.bos:
                self._append([self.bos])
            n_taken = self.n_pos - len(self.tokens)
            self._append(tokens[at : at + n_taken])
            at += n_taken
            if len(self.tokens) == self.n_pos:
                yield from self.rest()

    def rest(self) -> Iterator[Row]:
        """The row that was being filled, if there is one."""
        if self.tokens:
            row = self.tokens, self.documents
            self.tokens, self.documents = [], []
            yield row

    def _append(self, tokens: list[int]) -> None:
        self.tokens += tokens
        self.documents += [self.n_documents - 1] * len(tokens)


def pack(
    pieces: Iterable[Piece],
    tokenizer: Any,
    packer: Packer,
    max_rows: int | None = None,
    tokens_per_block: int = TOKENS_PER_BLOCK,
) -> Iterator[Block]:
    """Tokenise documents and pack them into rows, a block of about `tokens_per_block` at a time.

    Nothing is dropped: what does not fill a row is padded, what comes after `max_rows` is told in the last block.
    """
    rows: list[Row] = []
    end, n_rows, tokenised = Position(), 0, _tokenised(pieces, tokenizer)
    for piece, tokens in tokenised:
        rows += packer.add(tokens, begins=not piece.before)
        end = piece.end
        if max_rows is not None and n_rows + len(rows) >= max_rows:
            yield _last_block(rows, packer, max_rows - n_rows, end, next(tokenised, None) is not None)
            return
        if len(rows) * packer.n_pos >= tokens_per_block:
            yield Block(_stacked(rows, packer.n_pos), end, None)
            n_rows += len(rows)
            rows = []
    rows += packer.rest()
    if rows:
        yield Block(_stacked(rows, packer.n_pos), end, None)


def _last_block(rows: list[Row], packer: Packer, n_taken: int, end: Position, more: bool) -> Block:
    left = [*rows[n_taken:], *packer.rest()]
    n_known = sum(token != packer.bos for tokens, _ in left for token in tokens)
    cut = Cut(rows[n_taken - 1][1][-1], n_known) if left or more else None
    return Block(_stacked(rows[:n_taken], packer.n_pos), end, cut)


def _stacked(rows: list[Row], n_pos: int) -> Rows:
    block = np.full((2, len(rows), n_pos), PADDING, np.int32)
    for i, (tokens, documents) in enumerate(rows):
        block[0, i, : len(tokens)] = tokens
        block[1, i, : len(documents)] = documents
    return Rows(block[0], block[1])


def _tokenised(pieces: Iterable[Piece], tokenizer: Any) -> Iterator[tuple[Piece, list[int]]]:
    """Each piece with its tokens. One that goes on within a document is read with the character before it."""
    for batch in _batches(pieces):
        found = _tokens([piece.before + piece.text for piece in batch], tokenizer)
        for piece, tokens in zip(batch, found, strict=True):
            if not piece.before:
                yield piece, tokens
                continue
            (head,) = _tokens([piece.before], tokenizer)
            if tokens[: len(head)] == head:
                yield piece, tokens[len(head) :]
            else:
                yield piece, _tokens([piece.text], tokenizer)[0]


def _tokens(texts: list[str], tokenizer: Any) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


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
    """How many whole rows so many tokens are, padding counted; at least one."""
    return None if max_tokens is None else max(1, max_tokens // n_pos)
