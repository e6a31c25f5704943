"""Which documents of a corpus are held out: drawn by a hash of their content, so that copies are on the same side."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from storage.corpora.texts import Field, Piece, read_texts

HASHED_CHARACTERS = 16_384
"""Number of characters at the start of a document that are hashed, since whole documents are never in memory. Blanks
around them do not count."""

FEW_DOCUMENTS = 10
"""With fewer different documents than this, documents are cut into passages, since the drawn share would vary too
much."""

PASSAGES = (8192, 1024, 128)
"""Lengths of passages in characters. Shorter ones are used for texts that do not have enough longer ones."""

HASHES = 1 << 64


class Draw(NamedTuple):
    """How documents are divided into held-out ones and others."""

    seed: int = 0
    below: int = 0
    """Documents with smaller hashes are held out."""
    passage: int | None = None
    """Length in characters of the passages into which documents are cut, each of which then counts as a document; None:
    documents stay whole."""

    def holds_out(self, text: str) -> bool:
        """Whether a document with this beginning is held out."""
        return document_hash(text, self.seed) < self.below


def document_hash(text: str, seed: int) -> int:
    """A number below `HASHES` computed from a document's beginning."""
    beginning = text.strip()[:HASHED_CHARACTERS]
    return int.from_bytes(hashlib.blake2b(f"{seed} {beginning}".encode(), digest_size=8).digest(), "big")


def draw_documents(source: str, field: Field, share: float, seed: int) -> Draw:
    """Choose the threshold that holds out about a `share` of a source's documents; the source is read until it is
    certain that both sides get some.

    If there are fewer than `FEW_DOCUMENTS`, a share of their passages is drawn. If chance leaves a side without any, it
    gets the document whose hash is nearest. A text of a single short passage cannot be divided: nothing of it is held
    out.

    Raises:
        ValueError: the source cannot be read.
    """
    below = round(share * HASHES)
    if not below:
        return Draw(seed)
    for passage in (None, *PASSAGES):
        different: set[int] = set()
        least, greatest = HASHES, -1
        for text in _documents(source, field, passage):
            found = document_hash(text, seed)
            least, greatest = min(least, found), max(greatest, found)
            if len(different) < FEW_DOCUMENTS:
                different.add(found)
            if len(different) == FEW_DOCUMENTS and least < below <= greatest:
                return Draw(seed, below, passage)
        if len(different) == FEW_DOCUMENTS or (passage == PASSAGES[-1] and least < greatest):
            return Draw(seed, min(max(below, least + 1), greatest), passage)
    return Draw(seed)


def _documents(source: str, field: Field, passage: int | None) -> Iterator[str]:
    pieces: Iterator[Piece] = read_texts(source, field, characters=passage)
    for piece in pieces:
        if piece.text.strip() and (passage is not None or not piece.before):
            yield piece.text
