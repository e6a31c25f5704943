"""Which documents of a corpus are held out: drawn by a hash of their content, so that copies go together."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from storage.corpora.texts import Field, Piece, read_texts

HASHED_CHARACTERS = 16_384
"""How many characters of a document's beginning are hashed: documents are never held whole. Blanks around them do not
count."""

FEW_DOCUMENTS = 10
"""With fewer different ones, documents are cut into passages: a share of so few would be anything."""

PASSAGES = (8192, 1024, 128)
"""Characters of a passage at most. The shorter ones are for texts that have not so many of the longer."""

HASHES = 1 << 64


class Draw(NamedTuple):
    """How documents are told apart into those that are held out and the rest."""

    seed: int = 0
    below: int = 0
    """Documents with smaller hashes are held out."""
    passage: int | None = None
    """Characters of the passages into which documents are cut, each a document of its own from then on; None: documents
    stay whole."""

    def holds_out(self, text: str) -> bool:
        """Whether a document that begins so is held out."""
        return document_hash(text, self.seed) < self.below


def document_hash(text: str, seed: int) -> int:
    """A number below `HASHES` that follows from a document's beginning."""
    beginning = text.strip()[:HASHED_CHARACTERS]
    return int.from_bytes(hashlib.blake2b(f"{seed} {beginning}".encode(), digest_size=8).digest(), "big")


def draw_documents(source: str, field: Field, share: float, seed: int) -> Draw:
    """Draw about a `share` of a source's documents; it is read until it is sure that each side gets some.

    Where there are fewer than `FEW_DOCUMENTS`, a share of their passages is drawn. Where chance leaves a side without
    any, it gets the one whose hash is nearest to its own. A text of one short passage alone cannot be parted: nothing
    of it is held out.

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
