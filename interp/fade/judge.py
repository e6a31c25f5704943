"""The interface of a judge of descriptions, which may work by rule or ask a language model."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int8

LACKING = -1
"""The value of a rating that the judge did not give."""


class Text(NamedTuple):
    """A text as the tokens of the model's tokenizer."""

    tokens: tuple[str, ...]

    @property
    def whole(self) -> str:
        """The text in one piece."""
        return "".join(self.tokens)


class Marked(NamedTuple):
    """A text with some tokens marked, which are claimed to activate the feature."""

    text: Text
    places: tuple[int, ...]


class NaturalTexts(NamedTuple):
    """Held-out texts, which no statistic was computed from."""

    texts: list[Text]
    counted: Sequence[Bool[np.ndarray, " _"]]
    """Which tokens of each text count (`interp.activations.positions`); a feature is neither active nor silent at
    others."""


@runtime_checkable
class Judge(Protocol):
    """A judge. It sees the description only, never the feature's activations."""

    def synthesise(self, description: str, n: int) -> list[str]:
        """Write at most `n` different texts that show what the description says."""
        ...

    def rate(self, description: str, texts: Sequence[Text]) -> Int8[np.ndarray, " n"]:
        """How clearly each text shows it: 0, 1 or 2; `LACKING` where there is no answer."""
        ...

    def rate_continuations(self, description: str, texts: Sequence[Text]) -> Int8[np.ndarray, " n"]:
        """The same rating for continuations written by the model, in which the words that a feature promotes count as
        well."""
        ...

    def marks_right(self, description: str, texts: Sequence[Marked]) -> Int8[np.ndarray, " n"]:
        """For each text, whether the marked tokens fit the description: 1, 0 or `LACKING`."""
        ...

    def simulate(self, description: str, texts: Sequence[Text]) -> Sequence[Float[np.ndarray, " _"] | None]:
        """For every token of each text, how active the feature is expected to be; None where there is no answer."""
        ...

    def find_odd(self, description: str, groups: Sequence[Sequence[Marked]]) -> Int8[np.ndarray, " n"]:
        """For each group of texts, the index of the text whose marked tokens fit the description least; `LACKING` where
        there is no answer."""
        ...
