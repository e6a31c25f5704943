"""Metrics of descriptions from activations and ratings: a value, its 95% interval and number of cases, or the reason
why there is no value.

Clarity, responsiveness, purity and faithfulness are those of FADE (Puri et al. 2025, arXiv 2502.16994), detection and
fuzzing those of Paulo et al. (2024, arXiv 2410.13928).
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer

from interp.intervals import (
    auroc_interval,
    choice_inflation,
    clustered_auroc_interval,
    counted_pairs,
    precision_interval,
    ratio_interval,
    wilson,
)

PRESENT = 2
"""The rating of a text that clearly shows what the description says; 0: not at all, 1: vaguely."""


class Score(NamedTuple):
    """One metric. `value`, `low` and `high` are None if `reason` says why there is no value."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    """Number of texts, tokens or prompts that it is computed from."""
    reason: str | None = None

    @classmethod
    def none(cls, reason: str, n: int = 0) -> "Score":
        """A metric without a value, for this reason."""
        return cls(None, None, None, n, reason)


def auroc(positive: Float[np.ndarray, " m"], negative: Float[np.ndarray, " n"]) -> float:
    """The probability that a random positive is greater than a random negative; ties count half."""
    _, place, counts = np.unique(np.concatenate([positive, negative]), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # tied values get their mean rank
    m, n = len(positive), len(negative)
    return float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))


def average_precision(scores: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"]) -> float:
    """Precision averaged over the positives; equal scores are taken together."""
    order = np.argsort(-scores, kind="stable")
    ends = np.r_[np.flatnonzero(np.diff(scores[order])), len(scores) - 1]
    hits = np.cumsum(labels[order])[ends]
    return float((np.diff(hits, prepend=0) * hits / (ends + 1)).sum() / labels.sum())


def gini(positive: Float[np.ndarray, " m"], negative: Float[np.ndarray, " n"]) -> Score:
    """`|2 AUROC − 1|`: 0 where the two groups cannot be told apart, 1 where a threshold separates them."""
    m, n = len(positive), len(negative)
    area = auroc(positive, negative)
    low, high = (2 * end - 1 for end in auroc_interval(area, m, n))
    least = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    return Score(abs(2 * area - 1), least, max(abs(low), abs(high)), m + n)


def clarity(synthetic: Float[np.ndarray, " m"], natural: Float[np.ndarray, " n"]) -> Score:
    """Gini index of the activations on texts written from the description against those on natural texts."""
    if not len(synthetic) or not len(natural):
        return Score.none("no_synthetic_texts" if not len(synthetic) else "no_natural_texts")
    return gini(synthetic, natural)


def responsiveness(activations: Float[np.ndarray, " n"], ratings: Integer[np.ndarray, " n"]) -> Score:
    """Gini index of the activations on natural texts that show the description against those on texts that do not."""
    present, absent = activations[ratings == PRESENT], activations[ratings == 0]
    lacking = _lacking(present, absent)
    return lacking or gini(present, absent)


def purity(activations: Float[np.ndarray, " n"], ratings: Integer[np.ndarray, " n"]) -> Score:
    """Average precision of the activation in finding natural texts that show the description: how much of what
    activates the feature is covered by the description.

    As in FADE, the smallest activations come first if the feature is less active on the described texts than on others.
    Where the direction is not statistically certain, the interval covers both orders.
    """
    present, absent = activations[ratings == PRESENT], activations[ratings == 0]
    lacking = _lacking(present, absent)
    if lacking:
        return lacking
    scores = np.concatenate([absent, present]).astype(np.float64)
    labels = np.arange(len(scores)) >= len(absent)
    area = auroc(present, absent)
    scores = scores if area >= 0.5 else -scores
    value = average_precision(scores, labels)
    low, high = precision_interval(scores, labels)
    least, greatest = auroc_interval(area, len(present), len(absent))
    if least <= 0.5 <= greatest:
        low = min(low, precision_interval(-scores, labels)[0])
    return Score(value, min(low, value), max(high, value), len(scores))


def _lacking(present: np.ndarray, absent: np.ndarray) -> Score | None:
    n = len(present) + len(absent)
    if not len(present):
        return Score.none("nothing_rated_2", n)
    return None if len(absent) else Score.none("nothing_rated_0", n)


def faithfulness(ratings: Mapping[float, Integer[np.ndarray, " n"]], seed: int = 0) -> Score:
    """How much more often continuations show the description when the feature is set to the best multiple of its
    maximum, corrected for choosing the best (winner's curse).

    `ratings` are those of the continuations of the same prompts, by factor; −1 is a missing answer. Each half of the
    prompts, drawn by `seed`, is measured at the factor m that is best on the other half: `1 − (1 − p2(m)) / (1 −
    p2(0))`, which is `(p2(m) − p2(0)) / (1 − p2(0))` and 0 on average where steering has no effect; below 0 where it
    makes the description rarer. The interval is that of a ratio of paired shares, widened for the choice
    (`choice_inflation`).
    """
    shows, factors = _shown(ratings)
    n = shows.shape[1]
    if n < 2:
        return Score.none("too_few_ratings" if n else "no_ratings", n)
    untreated = ~shows[factors.index(0)]
    if not untreated.any():
        return Score.none("always_present", n)
    others = shows[[at for at, factor in enumerate(factors) if factor != 0]]
    treated = ~others[best_in_other_half(others, seed), np.arange(n)]
    low, high = ratio_interval(*counted_pairs(treated, untreated), choice_inflation(len(others)))
    return Score(float(1 - treated.sum() / untreated.sum()), 1 - high, 1 - low, n)


def best_in_other_half(shows: Bool[np.ndarray, "factors kept"], seed: int) -> Int64[np.ndarray, " kept"]:
    """For every prompt, the factor whose continuations show the description most often among the prompts of the other
    half."""
    half = np.random.default_rng(seed).permutation(shows.shape[1]) % 2
    best = np.array([shows[:, half != side].sum(1).argmax() for side in (0, 1)])
    return best[half]


def faithfulness_paper(ratings: Mapping[float, Integer[np.ndarray, " n"]]) -> Score:
    """Faithfulness exactly as in FADE: `max(0, max_m p2(m) − p2(0)) / (1 − p2(0))`, where m is the best of all factors
    on the same prompts that it is measured on. It is above 0 by chance alone, so it gets no interval."""
    shows, factors = _shown(ratings)
    n = shows.shape[1]
    if not n:
        return Score.none("no_ratings")
    shares = shows.mean(1)
    base = float(shares[factors.index(0)])
    if base == 1:
        return Score.none("always_present", n)
    return Score(max(0.0, float(shares.max()) - base) / (1 - base), None, None, n)


def _shown(ratings: Mapping[float, Integer[np.ndarray, " n"]]) -> tuple[Bool[np.ndarray, "factors kept"], list[float]]:
    """Which continuations show the description, for prompts with all their ratings; and the factors, those that change
    least first, so that the mildest wins a tie."""
    if 0 not in ratings:
        raise ValueError(f"faithfulness: expected ratings at factor 0 among {sorted(ratings)}")
    factors = sorted(ratings, key=lambda factor: (abs(factor), factor))
    table = np.stack([ratings[factor] for factor in factors])
    return table[:, (table >= 0).all(0)] == PRESENT, factors


def balanced_accuracy(said: Bool[np.ndarray, " n"], true: Bool[np.ndarray, " n"]) -> Score:
    """Mean of the share that is right among the true cases and the share that is right among the false; chance is 0.5.

    The interval combines the Wilson intervals of both shares (Newcombe's MOVER).
    """
    m, n = int(true.sum()), int((~true).sum())
    if not m or not n:
        return Score.none("never_active" if not m else "always_active", m + n)
    hits = float(said[true].mean()), float((~said[~true]).mean())
    ends = [wilson(share, size) for share, size in zip(hits, (m, n), strict=True)]
    value = sum(hits) / 2
    below = sum((share - end[0]) ** 2 for share, end in zip(hits, ends, strict=True)) ** 0.5 / 2
    above = sum((end[1] - share) ** 2 for share, end in zip(hits, ends, strict=True)) ** 0.5 / 2
    return Score(value, max(0.0, value - below), min(1.0, value + above), m + n)


def share_in_common(first: AbstractSet[str], second: AbstractSet[str]) -> Score:
    """The share of words that two descriptions have in common (Jaccard index), with Wilson's interval."""
    n, n_shared = len(first | second), len(first & second)
    if not first or not second:
        return Score.none("nothing_in_a_half", n)
    return Score(n_shared / n, *wilson(n_shared / n, n), n)


def simulation(predicted: Sequence[Float[np.ndarray, " _"]], active: Sequence[Bool[np.ndarray, " _"]]) -> Score:
    """AUROC of the activity that a description predicts, token by token, against where the feature is active.

    Chance is 0.5. The interval treats texts, not tokens, as independent.
    """
    if not any(map(len, active)):
        return Score.none("no_natural_texts")
    scores, labels = np.concatenate(predicted).astype(np.float64), np.concatenate(active)
    m, n = int(labels.sum()), int((~labels).sum())
    if not m or not n:
        return Score.none("never_active" if not m else "always_active", m + n)
    area = auroc(scores[labels], scores[~labels])
    text = np.repeat(np.arange(len(active)), [len(one) for one in active])
    low, high = clustered_auroc_interval(area, scores, labels, text)
    return Score(area, min(low, area), max(high, area), m + n)


def odd_one_out(hits: Bool[np.ndarray, " answered"], n_groups: int) -> Score:
    """The share of groups whose intruder was found, with Wilson's interval. No two groups share a text.

    Chance is one in `interp.fade.harder.IN_GROUP`.
    """
    if not len(hits):
        return Score.none("no_answer" if n_groups else "too_few_active_texts")
    share = float(hits.mean())
    return Score(share, *wilson(share, len(hits)), len(hits))


def chance_of_active(values: Float[np.ndarray, " n"] | None, active: Bool[np.ndarray, " n"], without: str) -> Score:
    """AUROC of one value for each text against whether the feature is active in it; chance is 0.5. `without` is the
    reason that is reported where there are no values."""
    if values is None:
        return Score.none(without)
    m, n = int(active.sum()), int((~active).sum())
    if not m or not n:
        return Score.none("never_active" if not m else "always_active", m + n)
    area = auroc(values[active], values[~active])
    low, high = auroc_interval(area, m, n)
    return Score(area, min(low, area), max(high, area), m + n)
