"""Which concept a description selects, and whether it is the one that the feature follows."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32

from interp.descriptions.english import meaning_of
from interp.fade.judge import Text
from interp.fade.rule import VAGUE, RuleJudge
from interp.intervals import Interval, wilson

LEAST = 0.5
"""A description selects a concept if it expects activity at this share of the concept's tokens, and this share of the
activity that it expects is on them."""


class Selection(NamedTuple):
    """How well a description selects each concept in a text."""

    recall: Float[np.ndarray, " concepts"]
    """For each concept, the share of its tokens at which activity is expected (at most 1 for a token)."""
    precision: Float[np.ndarray, " concepts"]
    """For each concept, the share of all expected activity that is on its tokens."""

    @property
    def best(self) -> int | None:
        """The selected concept with the greatest F1; None if none is selected."""
        chosen = (self.recall >= LEAST) & (self.precision >= LEAST)
        if not chosen.any():
            return None
        both = 2 * self.recall * self.precision / np.maximum(self.recall + self.precision, 1e-9)
        return int(np.argmax(np.where(chosen, both, -1)))

    def taken_for(self, concept: int, names: Sequence[str]) -> str:
        """The selected concept, or in words how the description misses this one."""
        if self.best is not None:
            return names[self.best]
        return NARROW if self.precision[concept] >= LEAST else WIDE if self.recall[concept] >= LEAST else NONE

    def is_right(self, concept: int) -> bool:
        """Whether the description selects this concept, even if another is selected better."""
        return bool(self.recall[concept] >= LEAST and self.precision[concept] >= LEAST)


class Reader:
    """Parses descriptions by rule and finds which tokens of some texts they mean: words in their contexts count fully,
    weaker words and words without their context half. Promoted words do not count."""

    def __init__(
        self, texts: Sequence[Text], counted: Bool[np.ndarray, " n"], masks: Float32[np.ndarray, "m concepts"]
    ):
        """`counted`: which tokens of the texts count; `masks`: the concepts' tokens among those."""
        self._judge, self._texts, self._counted, self._masks = RuleJudge(), texts, counted, masks
        self._n = np.maximum(masks.sum(0), 1)
        self._known: dict[str, Selection] = {}

    def select(self, description: str) -> Selection:
        """The concepts that a description selects."""
        if description not in self._known:
            expected = np.concatenate(self._judge.simulate(description, self._texts))[self._counted]
            expected[expected < VAGUE] = 0
            if not meaning_of(description).mechanisms:  # a description that does not say where the feature fires
                expected[:] = 0
            on = expected.astype(np.float32) @ self._masks
            self._known[description] = Selection(on / self._n, on / max(float(expected.sum()), 1e-9))
        return self._known[description]


class MethodFigures(NamedTuple):
    """Results of one method on features with a known meaning."""

    method: str
    n: int
    """Number of features that it describes."""
    right: float
    """Share of descriptions that select the concept that the feature follows."""
    right_interval: Interval
    recall: float
    """Mean share of the concept's tokens that the description selects (recall)."""
    precision: float
    """Mean share of what it selects that belongs to the concept (precision)."""
    shuffled: float
    """The same share of right descriptions after exchanging them between features of different concepts."""
    baseline: float
    """Share of right descriptions by `BASELINE` for the features that both describe; NaN if there are none."""
    n_claims: int
    """Among descriptions of randomly drawn features, the number that select any concept."""
    true_claims: float
    """Share of these whose feature has at least half of its activation on that concept's tokens; NaN if there are
    none."""


BASELINE = "maxact"
"""The method that others are compared with."""

NARROW, WIDE, NONE = "part of it", "more than it", "nothing of it"
"""What is reported where a description selects no concept: it expects some of the tokens, the tokens and too many
others, or neither."""


class Confusion(NamedTuple):
    """Features of one concept whose descriptions by one method select another concept."""

    method: str
    concept: str
    taken_for: str
    n: int


def confusions(method: str, misread: Sequence[tuple[str, str]]) -> list[Confusion]:
    """Pairs (concept, selected instead) with their number of features, the most frequent first."""
    ordered = sorted(Counter(misread).items(), key=lambda item: (-item[1], item[0]))
    return [Confusion(method, *pair, n) for pair, n in ordered]


class Tried(NamedTuple):
    """The description of a feature with known meaning by one method, and what it selects."""

    feature: tuple[int, int]
    concept: int
    selection: Selection
    text: str

    @property
    def is_right(self) -> bool:
        """Whether the description selects the concept that its feature is known to have."""
        return self.selection.is_right(self.concept)


def figures(method: str, tried: Sequence[Tried], baseline: Sequence[Tried], claims: Sequence[bool]) -> MethodFigures:
    """The results of a method: on features with known meaning, compared with `BASELINE` on the same features, and
    whether concepts selected by descriptions of any features are true of these."""
    n = len(tried)
    right = sum(one.is_right for one in tried) / n if n else float("nan")
    shuffled = [_of_another(tried, at).selection.is_right(one.concept) for at, one in enumerate(tried)]
    own = {one.feature for one in tried}
    beside = [one.is_right for one in baseline if one.feature in own]
    return MethodFigures(
        method, n, right, wilson(right, n) if n else (0.0, 1.0),
        _mean([float(one.selection.recall[one.concept]) for one in tried]),
        _mean([float(one.selection.precision[one.concept]) for one in tried]),
        _mean(shuffled), _mean(beside), len(claims), _mean(claims),
    )  # fmt: skip


def _of_another(tried: Sequence[Tried], at: int) -> Tried:
    """The next description, in a circle, whose feature follows another concept; the same where all follow one."""
    circle = [*tried[at + 1 :], *tried[:at]]
    return next((one for one in circle if one.concept != tried[at].concept), tried[at])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
