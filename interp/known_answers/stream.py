"""Text as one line of tokens, and concepts: programs that decide for each token whether it belongs to the concept."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

Mask = Bool[np.ndarray, " n"]
"""For each token of a stream, whether something is true."""


@dataclass(frozen=True)
class Stream:
    """The tokens of some rows, one row after the other."""

    ids: Int64[np.ndarray, " n"]
    starts: Mask
    """Whether a token is the first of a row or document; nothing before it is looked at."""
    vocabulary: list[str]
    """The text of every token, by id."""

    def where(self, is_meant: Callable[[str], bool]) -> Mask:
        """The tokens whose own text meets a condition."""
        known, place = np.unique(self.ids, return_inverse=True)
        return np.array([is_meant(self.vocabulary[token]) for token in known.tolist()], bool)[place]

    def after(self, mask: Mask) -> Mask:
        """The tokens directly after some tokens."""
        behind = np.zeros(len(mask), bool)
        behind[1:] = mask[:-1]
        return behind & ~self.starts

    def texts(self) -> list[str]:
        """The text of every token."""
        return [self.vocabulary[token] for token in self.ids.tolist()]

    def within(self, mask: Mask, n: int) -> Int64[np.ndarray, " n"]:
        """For each token, how many of the `n` tokens before it, and itself, are among some tokens."""
        total = np.cumsum(mask)
        first = np.maximum.accumulate(np.where(self.starts, np.arange(len(mask)), 0))
        low = np.maximum(first, np.arange(len(mask)) - n)
        return total - np.where(low > 0, total[low - 1], 0)


class Concept(NamedTuple):
    """A property that tokens may have in common."""

    name: str
    program: Callable[[Stream], Mask]


def token(name: str, is_meant: Callable[[str], bool]) -> Concept:
    """Tokens whose text meets a condition, in any context."""
    return Concept(name, lambda stream: stream.where(is_meant))


def one_of(words: str) -> Callable[[str], bool]:
    """Whether a token is one of some words, in any case, with or without a leading blank."""
    known = frozenset(words.split())
    return lambda text: text.strip().casefold() in known
