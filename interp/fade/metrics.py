"""From activations and ratings to figures: a value, its 95% interval and what it rests on, or why there is none.

Clarity, responsiveness, purity and faithfulness are those of FADE (Puri et al. 2025, arXiv 2502.16994), detection and
fuzzing those of Paulo et al. (2024, arXiv 2410.13928).
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy.special import expit, logit

Z95 = 1.959964
"""Standard errors on each side of a 95% interval."""

PRESENT = 2
"""The rating of a text that clearly shows what the description says; 0: not at all, 1: vaguely."""

N_RESAMPLES = 1000


class Score(NamedTuple):
    """One figure. `value`, `low` and `high` are None where `reason` says why there is none."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    """Texts, tokens or prompts that it rests on."""
    reason: str | None = None

    @classmethod
    def none(cls, reason: str, n: int = 0) -> "Score":
        return cls(None, None, None, n, reason)


def auroc(positive: Float[np.ndarray, " m"], negative: Float[np.ndarray, " n"]) -> float:
    """The chance that a positive is greater than a negative, ties counting half."""
    _, place, counts = np.unique(np.concatenate([positive, negative]), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # of equal values, the mean of theirs
    m, n = len(positive), len(negative)
    return float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))


def average_precision(scores: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"]) -> float:
    """Precision averaged over the positives, equal scores taken together."""
    order = np.argsort(-scores, kind="stable")
    ends = np.r_[np.flatnonzero(np.diff(scores[order])), len(scores) - 1]
    hits = np.cumsum(labels[order])[ends]
    return float((np.diff(hits, prepend=0) * hits / (ends + 1)).sum() / labels.sum())


def auroc_interval(area: float, m: int, n: int) -> tuple[float, float]:
    """The 95% interval of an AUROC of `m` positives and `n` negatives.

    By inverting the score test with Hanley and McNeil's variance (Newcombe 2006, method 5), which stays honest where
    the area is 0 or 1.
    """
    low, high = area, area
    for side, bound in ((-1.0, 0.0), (1.0, 1.0)):
        inside, outside = area, bound
        for _ in range(50):
            middle = (inside + outside) / 2
            within = abs(middle - area) <= Z95 * _auroc_error(middle, m, n)
            inside, outside = (middle, outside) if within else (inside, middle)
        low, high = (inside, high) if side < 0 else (low, inside)
    return low, high


def _auroc_error(area: float, m: int, n: int) -> float:
    pairs = (m + n) / 2 - 1
    extra = pairs * (1 - area) / (2 - area) + pairs * area / (1 + area)
    return float(np.sqrt(area * (1 - area) * (1 + extra) / (m * n)))


def gini(positive: Float[np.ndarray, " m"], negative: Float[np.ndarray, " n"]) -> Score:
    """`|2 AUROC − 1|`: 0 where the two cannot be told apart, 1 where one number between them does it."""
    m, n = len(positive), len(negative)
    area = auroc(positive, negative)
    low, high = (2 * end - 1 for end in auroc_interval(area, m, n))
    least = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    return Score(abs(2 * area - 1), least, max(abs(low), abs(high)), m + n)


def clarity(synthetic: Float[np.ndarray, " m"], natural: Float[np.ndarray, " n"]) -> Score:
    """How well texts written from the description alone drive the feature, against natural ones."""
    if not len(synthetic) or not len(natural):
        return Score.none("no_synthetic_texts" if not len(synthetic) else "no_natural_texts")
    return gini(synthetic, natural)


def responsiveness(activations: Float[np.ndarray, " n"], ratings: Integer[np.ndarray, " n"]) -> Score:
    """How well the activation separates natural texts that show the description from those that do not."""
    present, absent = activations[ratings == PRESENT], activations[ratings == 0]
    lacking = _lacking(present, absent)
    return lacking or gini(present, absent)


def purity(activations: Float[np.ndarray, " n"], ratings: Integer[np.ndarray, " n"]) -> Score:
    """Average precision of the same separation: how much of what drives the feature is what the description says.

    Where the feature is rather silent on what is described, the smallest activations come first, as FADE has it. The
    interval is Boyd et al.'s (2013) logit interval.
    """
    present, absent = activations[ratings == PRESENT], activations[ratings == 0]
    lacking = _lacking(present, absent)
    if lacking:
        return lacking
    scores = np.concatenate([absent, present])
    labels = np.arange(len(scores)) >= len(absent)
    value = average_precision(scores if auroc(present, absent) >= 0.5 else -scores, labels)
    m = len(present)
    inner = np.clip(value, 0.5 / (m + 1), 1 - 0.5 / (m + 1))  # the interval of 0 or 1 would be a point
    reach = Z95 / np.sqrt(m * inner * (1 - inner))
    low, high = expit(logit(inner) - reach), expit(logit(inner) + reach)
    return Score(value, min(float(low), value), max(float(high), value), len(scores))


def _lacking(present: np.ndarray, absent: np.ndarray) -> Score | None:
    n = len(present) + len(absent)
    if not len(present):
        return Score.none("nothing_rated_2", n)
    return None if len(absent) else Score.none("nothing_rated_0", n)


def faithfulness(ratings: Mapping[float, Integer[np.ndarray, " n"]], seed: int = 0) -> Score:
    """How much more often continuations show the description when the feature is set to a multiple of its maximum.

    `ratings` are those of the continuations of the same prompts, by factor; −1 is an answer that is lacking.
    `max(0, max_m p2(m) − p2(0)) / (1 − p2(0))`; its interval is a bootstrap over prompts.
    """
    if 0 not in ratings:
        raise ValueError(f"faithfulness: expected ratings at factor 0 among {sorted(ratings)}")
    factors = sorted(ratings)
    table = np.stack([ratings[factor] for factor in factors])
    table = table[:, (table >= 0).all(0)]
    n, base = table.shape[1], factors.index(0)
    if not n:
        return Score.none("no_ratings")
    shows = (table == PRESENT).astype(np.float64)
    value = _gain(shows.mean(1)[:, None], base)[0]
    if np.isnan(value):
        return Score.none("always_present", n)
    drawn = np.random.default_rng(seed).integers(0, n, (N_RESAMPLES, n))
    weights = np.apply_along_axis(np.bincount, 1, drawn, minlength=n) / n
    gains = _gain(shows @ weights.T, base)
    low, high = np.nanpercentile(gains, [2.5, 97.5])
    return Score(float(value), min(float(low), float(value)), max(float(high), float(value)), n)


def _gain(shares: Float[np.ndarray, "factors n"], base: int) -> Float[np.ndarray, " n"]:
    room = 1 - shares[base]
    gain = np.maximum(shares.max(0) - shares[base], 0)
    return np.where(room > 1e-12, gain / np.where(room > 1e-12, room, 1), np.nan)


def balanced_accuracy(said: Bool[np.ndarray, " n"], true: Bool[np.ndarray, " n"]) -> Score:
    """Mean of the shares that are right among the true and among the false; 0.5 is chance.

    The interval joins the two shares' Wilson intervals (Newcombe's MOVER).
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
    """Of the words of two descriptions, the share that both name (Jaccard), with Wilson's interval."""
    n, n_shared = len(first | second), len(first & second)
    if not first or not second:
        return Score.none("nothing_in_a_half", n)
    return Score(n_shared / n, *wilson(n_shared / n, n), n)


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95% interval of a share of `n`."""
    spread = Z95 * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
    middle, whole = share + Z95**2 / (2 * n), 1 + Z95**2 / n
    return max(0.0, float((middle - spread) / whole)), min(1.0, float((middle + spread) / whole))


def simulation(predicted: Sequence[Float[np.ndarray, " _"]], active: Sequence[Bool[np.ndarray, " _"]]) -> Score:
    """AUROC of the activity that a description predicts, token by token, against where the feature is active.

    0.5 is chance. The interval treats texts, not tokens, as independent: it is that of as many tokens, thinned by the
    design effect of their clustering in texts.
    """
    lengths = [len(text) for text in active if len(text)]
    if not lengths:
        return Score.none("no_natural_texts")
    scores, labels = np.concatenate(predicted).astype(np.float64), np.concatenate(active)
    m, n = int(labels.sum()), int((~labels).sum())
    if not m or not n:
        return Score.none("never_active" if not m else "always_active", m + n)
    area = auroc(scores[labels], scores[~labels])
    thinned = [max(1, round(size / _design_effect(scores, labels, lengths, side)))
               for side, size in ((True, m), (False, n))]  # fmt: skip
    low, high = auroc_interval(area, *thinned)
    return Score(area, low, high, m + n)


def _design_effect(scores: np.ndarray, labels: np.ndarray, lengths: Sequence[int], side: bool) -> float:
    """By how much the mean placement varies more than it would if tokens of one text were independent."""
    other = np.sort(scores[labels != side])
    own, text = labels == side, np.repeat(np.arange(len(lengths)), lengths)
    left, right = (np.searchsorted(other, scores[own], at) for at in ("left", "right"))
    centred = (left + right) / 2 / len(other)
    centred = centred - centred.mean()
    total = float((centred**2).sum())
    clustered = float((np.bincount(text[own], centred, len(lengths)) ** 2).sum())
    return max(1.0, clustered / total) if total > 0 else 1.0
