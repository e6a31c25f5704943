"""What a judge does with a description, whoever judges: by rule, or by asking a language model."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int8

LACKING = -1
"""In place of a rating that a judge did not give."""


class Text(NamedTuple):
    """A text as the model's tokenizer cuts it."""

    tokens: tuple[str, ...]

    @property
    def whole(self) -> str:
        return "".join(self.tokens)


class Marked(NamedTuple):
    """A text some of whose tokens are claimed to activate the feature."""

    text: Text
    places: tuple[int, ...]


class NaturalTexts(NamedTuple):
    """Texts that no statistic was taken from."""

    texts: list[Text]
    counted: Sequence[Bool[np.ndarray, " _"]]
    """Which tokens of each count (`interp.activations.positions`): at the others a feature is neither active nor
    silent."""


@runtime_checkable
class Judge(Protocol):
    """Everything is judged from the description alone; nothing of the feature's activations is seen."""

    def synthesise(self, description: str, n: int) -> list[str]:
        """At most `n` different texts that show what the description says."""
        ...

    def rate(self, description: str, texts: Sequence[Text]) -> Int8[np.ndarray, " n"]:
        """How clearly each text shows it: 0, 1 or 2; `LACKING` where there is no answer."""
        ...

    def rate_continuations(self, description: str, texts: Sequence[Text]) -> Int8[np.ndarray, " n"]:
        """The same of what the model writes, where what a feature promotes shows too."""
        ...

    def marks_right(self, description: str, texts: Sequence[Marked]) -> Int8[np.ndarray, " n"]:
        """Whether each text's marked tokens are what the description says: 1, 0 or `LACKING`."""
        ...

    def simulate(self, description: str, texts: Sequence[Text]) -> Sequence[Float[np.ndarray, " _"] | None]:
        """How active the feature is expected to be at every token of each text; None where there is no answer."""
        ...

    def find_odd(self, description: str, groups: Sequence[Sequence[Marked]]) -> Int8[np.ndarray, " n"]:
        """Of each group of texts, the one whose marked tokens are least what the description says, by its place in the
        group; `LACKING` where there is no answer."""
        ...
