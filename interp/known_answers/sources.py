"""Heads at a distance: whether the token where a head is said to read tells if the feature is active."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from interp.intervals import t_quantile
from interp.known_answers.following import Halves, auroc
from interp.known_answers.stream import Stream

SMOOTHING = 2.0
"""Tokens at the average rate that are added to what was seen of each token."""

LEAST_ACTIVE = 20
"""Tokens of each half at which a feature is active, below which it is not looked at."""


class NamedDistance(NamedTuple):
    """A feature some of whose clusters name a head that reads so far back."""

    layer: int
    feature: int
    distance: int
    """Below 0."""


class DistanceFigures(NamedTuple):
    """How well source tokens at the distances that are named predict the activation, over features."""

    n: int
    """Features with a distance each."""
    named: float
    """Mean AUROC of the token at the distance that is named."""
    others: float
    """The same at the distances that are named of other features."""
    difference: float
    reach: float
    """How far the difference's 95% interval reaches to each side, by Student's t; NaN of one alone."""
    best: float
    """Share of features for which the distance that is named predicts better than all others."""


def predicted(stream: Stream, active: Int64[np.ndarray, " m"], halves: Halves, distance: int) -> float:
    """AUROC, on the test half, of the rate at which the feature was active in the other half with the token that stands
    at a distance. Tokens behind the beginning of a row or document are one more token."""
    source = _source(stream, distance)
    is_active = np.zeros(len(source), bool)
    is_active[active] = True
    seen = np.bincount(source[halves.find], minlength=int(source.max()) + 1)
    hits = np.bincount(source[halves.find & is_active], minlength=len(seen))
    base = hits.sum() / max(1, seen.sum())
    rate = (hits + SMOOTHING * base) / (seen + SMOOTHING)
    tested = np.flatnonzero(halves.test)
    return auroc(tested, rate[source[tested]].astype(np.float32), is_active.astype(np.float32), halves.test)


def _source(stream: Stream, distance: int) -> Int64[np.ndarray, " n"]:
    """The token at a distance before each, counted from 1; 0 where the row or document begins behind it."""
    at = np.arange(len(stream.ids))
    first = np.maximum.accumulate(np.where(stream.starts, at, 0))
    source = at + distance
    return np.where(source >= first, stream.ids[np.maximum(source, 0)] + 1, 0)


def is_common(active: Int64[np.ndarray, " m"], halves: Halves) -> bool:
    """Whether a feature is active often enough in both halves."""
    return all(int(half[active].sum()) >= LEAST_ACTIVE for half in halves)


def distance_figures(found: Sequence[tuple[float, Sequence[float]]]) -> DistanceFigures:
    """Of features, the AUROC at the distance that is named and those at other features'."""
    if not found:
        return DistanceFigures(0, *[float("nan")] * 5)
    own = np.array([one for one, _ in found])
    others = np.array([np.mean(rest) for _, rest in found])
    n, difference = len(found), own - others
    reach = float(t_quantile(n - 1.0)) * difference.std(ddof=1) / np.sqrt(n) if n > 1 else float("nan")
    best = np.mean([one > max(rest) for one, rest in found])
    return DistanceFigures(n, own.mean(), others.mean(), difference.mean(), float(reach), float(best))


def halves_of(documents: Int64[np.ndarray, " n"], counted: Bool[np.ndarray, " n"]) -> Halves:
    """Documents of even number to find, the others to test."""
    return Halves(counted & (documents % 2 == 0), counted & (documents % 2 == 1))
