"""Text as one line of tokens, and concepts: programs that say of each token whether it is meant."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

Mask = Bool[np.ndarray, " n"]
"""Of each token of a stream, whether something is true."""


@dataclass(frozen=True)
class Stream:
    """Tokens of rows, one row after the other."""

    ids: Int64[np.ndarray, " n"]
    starts: Mask
    """The first tokens of rows and of documents: nothing before them is looked at."""
    vocabulary: list[str]
    """The text of every token, by id."""

    def where(self, is_meant: Callable[[str], bool]) -> Mask:
        """The tokens whose own text is meant."""
        known, place = np.unique(self.ids, return_inverse=True)
        return np.array([is_meant(self.vocabulary[token]) for token in known.tolist()], bool)[place]

    def after(self, mask: Mask) -> Mask:
        """The tokens right behind some tokens."""
        behind = np.zeros(len(mask), bool)
        behind[1:] = mask[:-1]
        return behind & ~self.starts

    def texts(self) -> list[str]:
        """The text of every token."""
        return [self.vocabulary[token] for token in self.ids.tolist()]

    def within(self, mask: Mask, n: int) -> Int64[np.ndarray, " n"]:
        """Of each token, how many of the `n` before it, and itself, are among some tokens."""
        total = np.cumsum(mask)
        first = np.maximum.accumulate(np.where(self.starts, np.arange(len(mask)), 0))
        low = np.maximum(first, np.arange(len(mask)) - n)
        return total - np.where(low > 0, total[low - 1], 0)


class Concept(NamedTuple):
    """Something that tokens may have in common."""

    name: str
    program: Callable[[Stream], Mask]


def token(name: str, is_meant: Callable[[str], bool]) -> Concept:
    """Tokens with a text of some kind, wherever they stand."""
    return Concept(name, lambda stream: stream.where(is_meant))


def one_of(words: str) -> Callable[[str], bool]:
    """Whether a token is one of some words, whatever their case, and with or without a blank before."""
    known = frozenset(words.split())
    return lambda text: text.strip().casefold() in known
