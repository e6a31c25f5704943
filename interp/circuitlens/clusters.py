"""Group a feature's activations by their sources (docs/methods.md, section 5)."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, Shaped
from scipy.sparse import csr_array

from interp.circuitlens.contributors import Contributors
from interp.circuitlens.cuts import cut_apart, views_of
from interp.circuitlens.kinds import FEATURE, HEAD, KINDS, MLP
from interp.circuitlens.resampling import Clustering, cluster_stability
from interp.circuitlens.settings import CircuitLensSettings
from interp.circuitlens.token_profiles import TokenProfiles

NOISE = -1

SHARED_BY = 0.5
"""A contributor is part of a cluster's signature if at least this share of the cluster's samples have it."""

Identity = tuple[str, int, int, int]
"""(feature, layer, feature, 0) or (head, layer, head, Δ). Contributors with the same identity count as the same one in
different samples."""


class Signatures(NamedTuple):
    """The set of significant contributors of each sample."""

    contains: csr_array
    """(n_samples, n_contributors), 1 where a sample has a contributor."""
    contributors: list[Identity]
    """Identities of the columns, in order."""


def signatures(
    found: Contributors, position: Int64[np.ndarray, " n_samples"], settings: CircuitLensSettings
) -> Signatures:
    """The sets of contributors of a feature's samples. `found.target` is the sample's index, `position` its firing
    token.

    A feature counts as the same at any token; a head or a whole MLP counts as the same at equal distance Δ between
    source and firing token.
    """
    keep = np.isin(found.kind, [KINDS.index(kind) for kind in (FEATURE, HEAD, MLP)])
    keep &= found.share >= settings.signature_share
    target, kind, layer, unit, source = (column[keep] for column in found[:5])
    delta = np.where(kind == KINDS.index(FEATURE), 0, source - position[target])
    identity, column = np.unique(np.stack([kind, layer, unit, delta], 1), axis=0, return_inverse=True)
    pairs = np.unique(np.stack([target, column.ravel()], 1), axis=0)
    counts = np.bincount(pairs[:, 1], minlength=len(identity))
    kept = counts >= np.ceil(settings.min_frequency * len(position))
    place = np.cumsum(kept) - 1
    pairs = pairs[kept[pairs[:, 1]]]
    ones = np.ones(len(pairs), np.int32)
    shape = (len(position), int(kept.sum()))
    contains = csr_array((ones, (pairs[:, 0], place[pairs[:, 1]])), shape=shape)
    return Signatures(contains, [(KINDS[row[0]], *row[1:]) for row in identity[kept].tolist()])


def jaccard_distances(contains: csr_array) -> Float64[np.ndarray, "n_samples n_samples"]:
    """1 − (shared contributors / all contributors) for each pair of samples; 0 for two samples without any."""
    shared = (contains @ contains.T).toarray().astype(np.float64)
    sizes = shared.diagonal()
    union = sizes[:, None] + sizes[None] - shared
    return 1 - np.divide(shared, union, out=np.ones_like(shared), where=union > 0)


def clustering_of(
    found: Contributors,
    position: Int64[np.ndarray, " n_samples"],
    signed: Signatures,
    settings: CircuitLensSettings,
    profiles: TokenProfiles | None = None,
) -> Clustering:
    """The clusters of a feature's samples, or of some of them. `found.target` is the sample's index, `signed` their
    sets."""
    if settings.clustering == "ncut":
        views = views_of(found, position, settings, profiles)
        return lambda some: cut_apart(views, _min_size(settings, len(some), len(position)), some)
    distances = jaccard_distances(signed.contains)
    return lambda some: _dense(distances[np.ix_(some, some)], settings)


def _min_size(settings: CircuitLensSettings, n: int, n_all: int) -> int:
    """Smallest number of samples in a cluster, reduced in proportion where only a part of the samples is clustered."""
    return max(2, round(settings.min_samples * n / n_all))


def _dense(
    distances: Float64[np.ndarray, "n_samples n_samples"], settings: CircuitLensSettings
) -> Int64[np.ndarray, " n_samples"]:
    from sklearn.cluster import DBSCAN, HDBSCAN  # imported here because it takes seconds

    if settings.clustering == "dbscan":
        method = DBSCAN(eps=settings.eps, min_samples=settings.min_samples, metric="precomputed")
    else:
        sizes = {"min_cluster_size": settings.min_samples, "allow_single_cluster": True}
        method = HDBSCAN(metric="precomputed", copy=True, **sizes)  # pyright: ignore[reportArgumentType]
    return method.fit_predict(distances).astype(np.int64)


def by_size(labels: Int64[np.ndarray, " n_samples"]) -> Int64[np.ndarray, " n_samples"]:
    """Renumber clusters by size, the largest as 0; among equally large ones, the one with the earlier sample comes
    first. Noise stays −1."""
    known, first, counts = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    place = np.empty(len(known), np.int64)
    place[np.lexsort((first, -counts))] = np.arange(len(known))
    return np.where(labels >= 0, place[np.searchsorted(known, np.maximum(labels, 0))] if len(known) else NOISE, NOISE)


class Cluster(NamedTuple):
    """One mechanism that makes the feature fire, or the samples that are in no cluster (noise)."""

    cluster: int
    n_samples: int
    signature: list[str]
    """The contributors that most of its samples share, the most frequent first: `L3 #17`, `L2 H1 −1`."""
    stability: float | None
    """See `cluster_stability`; None if no resamples were drawn, and for noise."""


class Clustered(NamedTuple):
    """A feature's samples, grouped by their sources."""

    labels: Int64[np.ndarray, " n_samples"]
    """The cluster of each sample, the largest 0; −1 for noise."""
    clusters: list[Cluster]
    """The clusters in order, noise last."""


def clustered(
    found: Contributors,
    position: Int64[np.ndarray, " n_samples"],
    settings: CircuitLensSettings,
    seed: list[int],
    profiles: TokenProfiles | None = None,
) -> Clustered:
    """Group a feature's samples. `found.target` is the sample's index, `position` its firing token; `seed` draws
    resamples. `profiles` are those of the contributing tokens, for a layer without features below it."""
    signed = signatures(found, position, settings)
    clustering = clustering_of(found, position, signed, settings, profiles)
    labels = by_size(clustering(np.arange(len(position))))
    stability = cluster_stability(labels, clustering, settings.resamples, seed)
    return Clustered(labels, describe_clusters(labels, signed, stability))


def describe_clusters(
    labels: Shaped[np.ndarray, " n_samples"], found: Signatures, stability: Mapping[int, float]
) -> list[Cluster]:
    """The clusters of a feature in order, noise last; noise has no signature."""
    result = []
    for label in sorted(set(labels.tolist()), key=lambda label: (label == NOISE, label)):
        members = np.nonzero(labels == label)[0]
        frequency = np.asarray(found.contains[members].sum(0)).ravel() / len(members)
        strong = (
            [] if label == NOISE else [c for c in np.argsort(-frequency, kind="stable") if frequency[c] >= SHARED_BY]
        )
        texts = [contributor_text(found.contributors[c]) for c in strong]
        result.append(Cluster(label, len(members), texts, stability.get(label)))
    return result


def contributor_text(identity: Identity) -> str:
    """`L3 #17` for a feature, `L2 H1 −1` for a head that reads one token back, `L2 MLP −1` for an MLP there."""
    kind, layer, index, delta = identity
    if kind == FEATURE:
        return f"L{layer} #{index}"
    return f"L{layer} {f'H{index}' if kind == HEAD else 'MLP'} {str(delta).replace('-', '−')}"
