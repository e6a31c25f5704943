"""Whether a feature's clusters would come out of other samples too."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int64

SHARE = 0.6
"""Of a cluster's samples, those of a resample."""

Clustering = Callable[[Int64[np.ndarray, " m"]], Int64[np.ndarray, " m"]]
"""From the places of some of the samples to their clusters; below 0: none."""


def cluster_stability(
    labels: Int64[np.ndarray, " n"], clustering: Clustering, n_resamples: int, seed: list[int]
) -> dict[int, float]:
    """How well each cluster holds when part of the samples is clustered again, from 0 to 1.

    Of the pairs of a cluster's sample and another one that are in one cluster, by all samples or by a resample
    (`SHARE` of every cluster, without replacement), the share that are so by both, over all resamples. Noise has none.
    """
    random = np.random.default_rng(seed)
    both: dict[int, int] = dict.fromkeys(np.unique(labels[labels >= 0]).tolist(), 0)
    either = dict(both)
    for _ in range(n_resamples):
        drawn = _drawn(labels, random)
        by_all, by_drawn = _together(labels[drawn]), _together(clustering(drawn))
        for label in both:
            mine = labels[drawn] == label
            both[label] += int((by_all & by_drawn)[mine].sum())
            either[label] += int((by_all | by_drawn)[mine].sum())
    return {label: both[label] / either[label] for label in both if either[label]}


def _drawn(labels: Int64[np.ndarray, " n"], random: np.random.Generator) -> Int64[np.ndarray, " m"]:
    """The places of a resample, in order: of every cluster its share, so that none is missing by chance."""
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.sort(np.concatenate([random.permutation(group)[: round(SHARE * len(group))] for group in groups]))


def _together(labels: Int64[np.ndarray, " m"]) -> np.ndarray:
    """Which pairs of different samples are in one cluster."""
    together = (labels[:, None] == labels[None]) & (labels >= 0)[:, None]
    np.fill_diagonal(together, False)
    return together
