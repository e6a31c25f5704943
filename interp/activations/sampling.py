"""Statistics of a feature's activations, and samples of them."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from interp.activations.settings import ActivationSettings
from interp.kernels import sampling as kernels
from interp.sparse import FeatureTokens


class Statistics(NamedTuple):
    """Statistics over every active token of some features."""

    n_active: Int64[np.ndarray, " n"]
    total: Float64[np.ndarray, " n"]
    squares: Float64[np.ndarray, " n"]
    greatest: Float32[np.ndarray, " n"]


class Samples(NamedTuple):
    """Sampled activations, feature by feature; each feature's quantile sample comes first."""

    feature: Int64[np.ndarray, " n"]
    """Index within the block of features, from 0."""
    sample: Int64[np.ndarray, " n"]
    position: Int64[np.ndarray, " n"]
    """Position within the whole corpus, counted row after row."""
    activation: Float32[np.ndarray, " n"]
    quantile_bin: Int64[np.ndarray, " n"]
    """The bin that the sample was drawn from; −1 for one of the greatest activations that was not drawn."""
    edges: Float64[np.ndarray, "features bins_plus_1"]
    """Quantiles of each feature's activations; NaN where it was never active."""


def statistics(active: FeatureTokens) -> Statistics:
    """Statistics of every feature. Sums are added in order of position, so they do not depend on how the corpus is
    divided."""
    return Statistics(np.diff(active.indptr), *kernels.moments(active.indptr, active.value))


def draw_samples(active: FeatureTokens, layer: int, first: int, settings: ActivationSettings) -> Samples:
    """Draw samples of the activations of the features from `first` on (Golimblevskaia et al. 2025, appendix).

    Active tokens are put into `n_bins` quantile bins. An activation in a bin of n has weight 1 / n^alpha, and
    `n_samples` are drawn without replacement. The `n_top` greatest activations that were not drawn are added, in
    descending order. The draw depends on seed, layer, feature and positions only.
    """
    counts, entry, bins, edges = kernels.draw(
        active.indptr, active.token, active.value, _ordered(active), layer, first,
        settings.n_bins, settings.alpha, settings.n_samples, settings.n_top, settings.seed,
    )  # fmt: skip
    feature = np.repeat(np.arange(active.n_features), counts)
    sample = np.arange(len(entry)) - np.repeat(np.cumsum(counts) - counts, counts)
    position = active.token[entry].astype(np.int64)
    return Samples(feature, sample, position, active.value[entry], bins, edges)


def _ordered(active: FeatureTokens) -> Float32[np.ndarray, " n"]:
    """The activations of each feature in ascending order. Memory: 4 bytes for each entry."""
    values = active.value.copy()
    for begin, end in pairwise(active.indptr.tolist()):
        values[begin:end].sort()  # numpy's sort is vectorised, numba's is not
    return values


class Neighbours(NamedTuple):
    """Other activations of a feature near some of its activations, as one list."""

    counts: Int64[np.ndarray, " n"]
    """The number of them for each activation, which itself is among them."""
    offset: Int64[np.ndarray, " m"]
    """Distance in tokens: 0 for the activation itself, −1 for the token before it."""
    activation: Float32[np.ndarray, " m"]


def neighbours(
    active: FeatureTokens,
    feature: Int64[np.ndarray, " n"],
    position: Int64[np.ndarray, " n"],
    n_pos: int,
    reach: tuple[int, int],
) -> Neighbours:
    """The activations of the same feature in the same row, at most `reach` tokens before and after some positions.

    `feature` is counted from the first of `active`; `position` is counted through the corpus, with `n_pos` for each
    row.
    """
    row = position - position % n_pos
    low, high = np.maximum(row, position - reach[0]), np.minimum(row + n_pos - 1, position + reach[1])
    width = max(int(active.token.max(initial=0)), int(high.max(initial=0))) + 2
    owner = np.repeat(np.arange(active.n_features), np.diff(active.indptr))
    known = owner * width + active.token.astype(np.int64)
    begin = np.searchsorted(known, feature * width + low)
    counts = np.searchsorted(known, feature * width + high, side="right") - begin
    at = np.repeat(begin - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    offset = active.token[at].astype(np.int64) - np.repeat(position, counts)
    return Neighbours(counts, offset, active.value[at])
