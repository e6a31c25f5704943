"""95% intervals of published figures. docs/methods.md gives the reasons for each choice; `benchmarks/coverage.py`
measures their coverage by simulation."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit, logit, ndtr, stdtrit

Z95 = 1.959964
"""Half-width of a 95% interval in standard errors, for a normal distribution."""

Interval = tuple[float, float]

LEAST_VARIANCE = 0.1
"""Smallest variance of an order of values, as a share of the variance by a formula that uses only their number: a
perfect order of few values is not certain."""


EXTREMES = 0.2
"""Weight, relative to a measured drop, of the two drops that are added: one of the whole activation and one of
nothing."""


def t_quantile(degrees: Float[np.ndarray, "*n"] | float) -> Float[np.ndarray, "*n"]:
    """Half-width of a 95% interval in standard errors, where the error is estimated with these degrees of freedom."""
    return np.asarray(stdtrit(degrees, 0.975))


def drop_interval(drops: Float[np.ndarray, " n"]) -> Interval | None:
    """Interval of the mean of a few drops. A drop is the share of something that is lost: at most 1, and seldom far
    below 0. None for a single drop.

    Student's t interval of the drops, with a total loss and no loss added, each with weight a fifth. Without these,
    equal drops (say three total losses) would give an interval of length 0. With larger weights, the coverage would
    exceed 95% where drops have one peak. The interval ends at 1.
    """
    n = len(drops)
    if n < 2:
        return None
    values = np.append(drops, [0.0, 1.0])
    weights = np.append(np.ones(n), [EXTREMES, EXTREMES])
    mean = np.average(values, weights=weights)
    variance = (weights * (values - mean) ** 2).sum() / (weights.sum() - 1)
    reach = float(t_quantile(n - 1.0)) * np.sqrt(variance / weights.sum())
    return float(min(mean - reach, drops.mean())), float(np.clip(mean + reach, drops.mean(), 1.0))


def wilson(share: float, n: int) -> Interval:
    """Wilson's score interval of a share observed among `n`."""
    spread = Z95 * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
    middle, whole = share + Z95**2 / (2 * n), 1 + Z95**2 / n
    return max(0.0, float((middle - spread) / whole)), min(1.0, float((middle + spread) / whole))


def auroc_interval(area: float, m: int, n: int) -> Interval:
    """Interval of an AUROC of `m` positives and `n` negatives.

    It inverts the score test with Hanley and McNeil's variance (Newcombe 2006, method 5), which has good coverage even
    where the area is 0 or 1.
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


def clustered_auroc_interval(
    area: float, scores: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"], cluster: Int[np.ndarray, " n"]
) -> Interval:
    """Interval of an AUROC whose values come in clusters (at least two), on the logit scale.

    The placement of a value is the share of the other side that it is on the right side of. The variance is that of the
    sums of placements in clusters (DeLong's variance, clustered). `LEAST_VARIANCE` of Hanley and McNeil's is added, so
    that a perfect order of few values is not certain.
    """
    m, n = int(labels.sum()), int((~labels).sum())
    placement = np.empty(len(scores))
    for side in (True, False):
        other = np.sort(scores[labels != side])
        below = sum(np.searchsorted(other, scores[labels == side], at) for at in ("left", "right")) / 2 / len(other)
        placement[labels == side] = below if side else 1 - below
    parts = np.bincount(cluster, (placement - area) / np.where(labels, m, n))
    n_clusters = max(2, len(np.unique(cluster)))
    variance = (parts**2).sum() * n_clusters / (n_clusters - 1) + LEAST_VARIANCE * _auroc_error(area, m, n) ** 2
    inner = float(np.clip(area, 0.5 / (min(m, n) + 1), 1 - 0.5 / (min(m, n) + 1)))
    least = LEAST_VARIANCE * inner * (1 - inner) / min(m, n)  # of a perfect order, whose own variance is 0
    reach = t_quantile(n_clusters - 1.0) * np.sqrt(max(variance, least)) / (inner * (1 - inner))
    return float(expit(logit(inner) - reach)), float(expit(logit(inner) + reach))


def precision_interval(scores: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"]) -> Interval:
    """Interval of an average precision, on the logit scale, with the variance of its influence function.

    The influence of a positive or a negative is the change from one more of it; the sum of squared influences gives the
    variance. It uses the order of the scores, while Boyd's variance (2013), `1 / (m θ (1 − θ))` on this scale, uses
    only their number. `LEAST_VARIANCE` of Boyd's is added.
    """
    _, group = np.unique(-scores, return_inverse=True)
    hits, misses = (np.bincount(group, side).astype(float) for side in (labels, ~labels))
    true, false = np.cumsum(hits), np.cumsum(misses)
    m, n, taken = hits.sum(), len(scores), true + false
    precision = true / taken
    value = float((hits * precision).sum() / m)
    of_positive, of_negative = (np.cumsum((hits / m * part / taken**2)[::-1])[::-1] for part in (false, true))
    influence = np.where(labels, (precision[group] - value) / m + of_positive[group], -of_negative[group])
    inner = float(np.clip(value, 0.5 / (m + 1), 1 - 0.5 / (m + 1)))  # the interval of 0 or 1 would have length 0
    variance = (influence**2).sum() * n / max(1, n - 1) / (inner * (1 - inner)) ** 2
    reach = Z95 * np.sqrt(variance + LEAST_VARIANCE / (m * inner * (1 - inner)))
    return float(expit(logit(inner) - reach)), float(expit(logit(inner) + reach))


def ratio_interval(both: int, treated: int, untreated: int, neither: int, inflation: float = 1.0) -> Interval:
    """Interval of the ratio of two shares observed in pairs: the share with an outcome under treatment, over that
    without.

    The counts are pairs with the outcome in both, with the treatment only, without it only, in neither. It inverts the
    score test with the variance under the hypothesis (Nam and Blackwelder 2002), which has good coverage even where a
    count is 0. `inflation` multiplies the variance. The share without treatment must not be 0.
    """

    def statistic(ratio: float) -> float:
        n = both + treated + untreated + neither
        some = (both + treated + untreated) / n
        a = (1 + ratio) * some
        b = some * ((ratio**2 - 1) * (both + untreated) - treated - untreated) / n
        c = untreated * (1 - ratio) * some**2 / n
        without = (-b + np.sqrt(max(b * b - 4 * a * c, 0.0))) / (2 * a)  # share of pairs, under the hypothesis
        alone = ((ratio - 1) * some + without) / ratio
        variance = inflation * ratio * max(alone + without, 0.0) / n
        difference = ((both + treated) - ratio * (both + untreated)) / n
        return difference / np.sqrt(variance) if variance > 0 else np.sign(difference) * np.inf

    ratio = (both + treated) / (both + untreated)
    low, high = 0.0, max(2 * ratio, 1.0)
    while statistic(high) > -Z95:
        high *= 2
    ends = []
    for outside, sign in ((low, 1.0), (high, -1.0)):
        inside = ratio
        for _ in range(60):
            middle = (inside + outside) / 2
            is_inside = middle > 0 and sign * statistic(middle) <= Z95
            inside, outside = (middle, outside) if is_inside else (inside, middle)
        ends.append(inside)
    return ends[0], ends[1]


def choice_inflation(n_choices: int) -> float:
    """Factor by which the variance of the mean of two halves grows where each half is measured at the best of
    `n_choices` in the other: `1 + μ² / (2 (k − 1))`, μ being the expected greatest of k standard normal values.

    Both halves often choose the same winner by chance, so that their results are correlated. The factor is exact if all
    choices and the comparison have equal variance and no choice is better; if one is better, it is too large.
    """
    if n_choices < 2:
        return 1.0
    x = np.linspace(-8, 8, 4001)
    greatest = float(-np.trapezoid(ndtr(x) ** n_choices - (x > 0), x))
    return 1 + greatest**2 / (2 * (n_choices - 1))


def counted_pairs(treated: Bool[np.ndarray, " n"], untreated: Bool[np.ndarray, " n"]) -> tuple[int, int, int, int]:
    """How many pairs had each outcome, in the form that `ratio_interval` takes."""
    both, alone = treated & untreated, treated & ~untreated
    without, neither = ~treated & untreated, ~treated & ~untreated
    return int(both.sum()), int(alone.sum()), int(without.sum()), int(neither.sum())
