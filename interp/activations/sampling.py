"""What is kept of a feature's activations: figures over all of them, and a few for a closer look."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from interp.activations.settings import ActivationSettings
from interp.kernels import sampling as kernels
from interp.sparse import FeatureTokens


class Statistics(NamedTuple):
    """Figures over every active token of some features."""

    n_active: Int64[np.ndarray, " n"]
    total: Float64[np.ndarray, " n"]
    squares: Float64[np.ndarray, " n"]
    greatest: Float32[np.ndarray, " n"]


class Samples(NamedTuple):
    """Activations drawn of some features, feature by feature, each one's first the quantile sample."""

    feature: Int64[np.ndarray, " n"]
    """Counted from the first."""
    sample: Int64[np.ndarray, " n"]
    position: Int64[np.ndarray, " n"]
    """Through the corpus, row after row."""
    activation: Float32[np.ndarray, " n"]
    quantile_bin: Int64[np.ndarray, " n"]
    """−1 for what is among the greatest and was not drawn."""
    edges: Float64[np.ndarray, "features bins_plus_1"]
    """Quantiles of each feature's activations; NaN where it was never active."""


def statistics(active: FeatureTokens) -> Statistics:
    """Sums are added up position after position, so that they do not depend on how a corpus is divided."""
    return Statistics(np.diff(active.indptr), *kernels.moments(active.indptr, active.value))


def draw_samples(active: FeatureTokens, layer: int, first: int, settings: ActivationSettings) -> Samples:
    """Draw from the activations of the features from `first` on (Golimblevskaia et al. 2025, appendix).

    `n_bins` quantile bins of a feature's active tokens, an activation in a bin of n has weight 1 / n^alpha, and
    `n_samples` are drawn without replacement; beside them the `n_top` greatest that were not drawn, downwards. What is
    drawn depends on seed, layer, feature and positions alone.
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
    """The activations of each feature, ascending. Memory: 4 bytes an entry."""
    values = active.value.copy()
    for begin, end in pairwise(active.indptr.tolist()):
        values[begin:end].sort()  # numpy's sort is vector code, numba's is not
    return values
