"""Heads at a distance: whether the token that a head is said to read from predicts the activation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from interp.intervals import t_quantile
from interp.known_answers.following import Halves, auroc
from interp.known_answers.stream import Stream

SMOOTHING = 2.0
"""Number of tokens at the average rate that are added to the counts of each token (smoothing)."""

LEAST_ACTIVE = 20
"""Fewest active tokens of a feature in each half; features with fewer are left out."""


class NamedDistance(NamedTuple):
    """A feature with clusters whose signature names a head that reads at this distance."""

    layer: int
    feature: int
    distance: int
    """Position of the source minus that of the firing token; below 0."""


class DistanceFigures(NamedTuple):
    """How well source tokens at the named distances predict the activation, over features."""

    n: int
    """Number of features, each with a distance."""
    named: float
    """Mean AUROC of the token at the named distance."""
    others: float
    """The same at distances named for other features."""
    difference: float
    reach: float
    """Half-width of the difference's 95% interval, by Student's t; NaN for a single feature."""
    best: float
    """Share of features for which the named distance predicts better than all others."""


def predicted(stream: Stream, active: Int64[np.ndarray, " m"], halves: Halves, distance: int) -> float:
    """AUROC, on the test half, of the rate at which the feature was active in the other half given the token at a
    distance. Positions before the start of a row or document count as one more token."""
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
    """The token at a distance before each, counted from 1; 0 where that is before the start of the row or document."""
    at = np.arange(len(stream.ids))
    first = np.maximum.accumulate(np.where(stream.starts, at, 0))
    source = at + distance
    return np.where(source >= first, stream.ids[np.maximum(source, 0)] + 1, 0)


def is_common(active: Int64[np.ndarray, " m"], halves: Halves) -> bool:
    """Whether a feature is active often enough in both halves."""
    return all(int(half[active].sum()) >= LEAST_ACTIVE for half in halves)


def distance_figures(found: Sequence[tuple[float, Sequence[float]]]) -> DistanceFigures:
    """For some features, the AUROC at the named distance and at those of other features."""
    if not found:
        return DistanceFigures(0, *[float("nan")] * 5)
    own = np.array([one for one, _ in found])
    others = np.array([np.mean(rest) for _, rest in found])
    n, difference = len(found), own - others
    reach = float(t_quantile(n - 1.0)) * difference.std(ddof=1) / np.sqrt(n) if n > 1 else float("nan")
    best = np.mean([one > max(rest) for one, rest in found])
    return DistanceFigures(n, own.mean(), others.mean(), difference.mean(), float(reach), float(best))


def halves_of(documents: Int64[np.ndarray, " n"], counted: Bool[np.ndarray, " n"]) -> Halves:
    """Documents with even numbers to find features, the others to test."""
    return Halves(counted & (documents % 2 == 0), counted & (documents % 2 == 1))
