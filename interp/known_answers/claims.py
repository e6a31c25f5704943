"""Which concept a description selects, and whether that is the one that the feature follows."""

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
"""A description selects a concept if it expects activity at such a share of its tokens, and such a share of the
activity that it expects is there."""


class Selection(NamedTuple):
    """What a description selects of a text, beside every concept."""

    recall: Float[np.ndarray, " concepts"]
    """Of a concept's tokens, how much activity is expected there, at most 1 a token."""
    precision: Float[np.ndarray, " concepts"]
    """Of all activity that is expected, the share on the concept's tokens."""

    @property
    def best(self) -> int | None:
        """The concept that it selects: of greatest F1; None where it selects none."""
        chosen = (self.recall >= LEAST) & (self.precision >= LEAST)
        if not chosen.any():
            return None
        both = 2 * self.recall * self.precision / np.maximum(self.recall + self.precision, 1e-9)
        return int(np.argmax(np.where(chosen, both, -1)))

    def taken_for(self, concept: int, names: Sequence[str]) -> str:
        """What is selected in place of a concept."""
        if self.best is not None:
            return names[self.best]
        return NARROW if self.precision[concept] >= LEAST else WIDE if self.recall[concept] >= LEAST else NONE

    def is_right(self, concept: int) -> bool:
        """Whether it selects this one, be there a better one or not."""
        return bool(self.recall[concept] >= LEAST and self.precision[concept] >= LEAST)


class Reader:
    """Reads descriptions back by rule, and says which tokens of some texts they mean: their words in their contexts, by
    half those that are called weaker or stand without their context. What is promoted does not count."""

    def __init__(
        self, texts: Sequence[Text], counted: Bool[np.ndarray, " n"], masks: Float32[np.ndarray, "m concepts"]
    ):
        """`counted`: which tokens of the texts count; `masks`: the concepts at those."""
        self._judge, self._texts, self._counted, self._masks = RuleJudge(), texts, counted, masks
        self._n = np.maximum(masks.sum(0), 1)
        self._known: dict[str, Selection] = {}

    def select(self, description: str) -> Selection:
        """What a description selects."""
        if description not in self._known:
            expected = np.concatenate(self._judge.simulate(description, self._texts))[self._counted]
            expected[expected < VAGUE] = 0
            if not meaning_of(description).mechanisms:  # where it fires is not said
                expected[:] = 0
            on = expected.astype(np.float32) @ self._masks
            self._known[description] = Selection(on / self._n, on / max(float(expected.sum()), 1e-9))
        return self._known[description]


class MethodFigures(NamedTuple):
    """One method's descriptions of features whose meaning is known."""

    method: str
    n: int
    """Features that it describes."""
    right: float
    """Share whose description selects the concept that the feature follows."""
    right_interval: Interval
    recall: float
    """Mean share of the concept's tokens that the description selects."""
    precision: float
    """Mean share of what it selects that is the concept's."""
    shuffled: float
    """Share of right ones where each has the description of another feature, which follows another concept."""
    baseline: float
    """Share of right ones by `BASELINE`, on the features that both describe; NaN without any."""
    n_claims: int
    """Of descriptions of all features, drawn at random, those that select any concept."""
    true_claims: float
    """Share of these of whose feature's activation at least half is on that concept's tokens; NaN without any."""


BASELINE = "maxact"
"""The method beside which the others are set."""

NARROW, WIDE, NONE = "part of it", "more than it", "nothing of it"
"""What a description is said to select that selects no other concept: its tokens, but too few of them; them and too
many others; or neither."""


class Confusion(NamedTuple):
    """Features of one concept whose descriptions by a method select another."""

    method: str
    concept: str
    taken_for: str
    n: int


def confusions(method: str, misread: Sequence[tuple[str, str]]) -> list[Confusion]:
    """What is taken for what, (concept, what is selected) a feature; the commonest first."""
    ordered = sorted(Counter(misread).items(), key=lambda item: (-item[1], item[0]))
    return [Confusion(method, *pair, n) for pair, n in ordered]


class Tried(NamedTuple):
    """The description of a feature of known meaning by one method, tried."""

    feature: tuple[int, int]
    concept: int
    selection: Selection
    text: str

    @property
    def is_right(self) -> bool:
        return self.selection.is_right(self.concept)


def figures(method: str, tried: Sequence[Tried], baseline: Sequence[Tried], claims: Sequence[bool]) -> MethodFigures:
    """The figures of a method: of what it says of features of known meaning, what `BASELINE` says of them, and whether
    what descriptions of any features claim is true of these."""
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
    """The next one, in a circle, whose feature follows another concept; itself where all follow one."""
    circle = [*tried[at + 1 :], *tried[:at]]
    return next((one for one in circle if one.concept != tried[at].concept), tried[at])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
