"""Whether clustering other samples would give a feature the same clusters."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int64

SHARE = 0.6
"""Share of each cluster's samples in a resample."""

Clustering = Callable[[Int64[np.ndarray, " m"]], Int64[np.ndarray, " m"]]
"""A clustering: from the indices of some samples to their clusters; below 0 for none."""


def cluster_stability(
    labels: Int64[np.ndarray, " n"], clustering: Clustering, n_resamples: int, seed: list[int]
) -> dict[int, float]:
    """How stable each cluster is when a part of the samples is clustered again, from 0 to 1.

    Consider the pairs of a cluster's sample with another sample that share a cluster either among all samples or in a
    resample (`SHARE` of every cluster, without replacement). The stability is the share of these pairs that are
    together in both, over all resamples. Noise has none.
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
    """The sample indices of a resample, in order: a share of every cluster, so that none is missing by chance."""
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.sort(np.concatenate([random.permutation(group)[: round(SHARE * len(group))] for group in groups]))


def _together(labels: Int64[np.ndarray, " m"]) -> np.ndarray:
    """Which pairs of different samples are in one cluster."""
    together = (labels[:, None] == labels[None]) & (labels >= 0)[:, None]
    np.fill_diagonal(together, False)
    return together
