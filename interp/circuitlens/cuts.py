"""Clusters by normalised cuts: samples are split where their sources have least in common.

The value of a cut is the similarity across it divided by each side's similarity to all samples, summed over both sides
(Shi and Malik, "Normalized Cuts and Image Segmentation", 2000): near 0 between different sources, near 1 within one
group.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.sparse import csr_array

from interp.circuitlens.contributors import Contributors
from interp.circuitlens.kinds import FEATURE, HEAD, KINDS, MLP, TOKEN
from interp.circuitlens.settings import CircuitLensSettings
from interp.circuitlens.token_profiles import TokenProfiles

DISTANCES = (0, 1, 4, 16)
"""Heads count as the same if the distances to their source tokens fall into the same of these classes."""

LINK = 1e-3
"""Smallest similarity of two samples, so that no side of a cut has a total of zero."""

Similarity = Float64[np.ndarray, "n n"]


class View(NamedTuple):
    """One way in which samples are similar."""

    similarity: Similarity
    max_cut: float
    """Clusters are separated by a normalised cut of at most this value."""


def views_of(
    found: Contributors,
    position: Int64[np.ndarray, " n"],
    settings: CircuitLensSettings,
    profiles: TokenProfiles | None = None,
) -> tuple[View, View]:
    """The similarity of samples by their sources, and by the heads that moved them. `found.target` is the sample's
    index.

    Sources are upstream features (or whole MLPs) and tokens, at any position, weighted by their share of the positive
    contributions; heads are weighted likewise, with a class of distance. Each similarity is the cosine of the shares'
    square roots, in which weak sources have some weight as well. Where all sources are tokens, and their `profiles` are
    given, different tokens are similar as far as their profiles are; all samples are more similar then, and
    `max_token_cut` holds in the place of `max_cut`.
    """
    distance = np.searchsorted(DISTANCES, np.abs(position[found.target] - found.position))
    moved_by = np.stack([found.layer, found.unit, distance], 1)
    heads = _shares(found, found.kind == KINDS.index(HEAD), moved_by, len(position))
    known = profiles if of_tokens_alone(found) else None
    sources = source_vectors(found, len(position), known)
    return (
        View(_cosines(sources), settings.max_cut if known is None else settings.max_token_cut),
        View(_cosines(heads), settings.max_cut),
    )


def of_tokens_alone(found: Contributors) -> bool:
    """Whether no upstream features and no whole MLPs are among the contributors."""
    return not np.isin(found.kind, [KINDS.index(kind) for kind in (FEATURE, MLP)]).any()


def source_vectors(found: Contributors, n_samples: int, profiles: TokenProfiles | None = None) -> csr_array:
    """What each sample came from: square roots of contributions by source, or, with `profiles`, sums of its tokens'
    profiles with these weights."""
    is_source = np.isin(found.kind, [KINDS.index(kind) for kind in (TOKEN, FEATURE, MLP)])
    if profiles is None:
        return _shares(found, is_source, np.stack([found.kind, found.layer, found.unit], 1), n_samples)
    shares = _shares(found, is_source, found.unit[:, None], n_samples, profiles.token)
    return csr_array(shares @ profiles.vector)


def _shares(
    found: Contributors,
    wanted: Bool[np.ndarray, " m"],
    identity: Int64[np.ndarray, "m _"],
    n_samples: int,
    known: Int64[np.ndarray, " k"] | None = None,
) -> csr_array:
    """Square roots of the contributions, by sample and source; the columns are the different sources, or `known`."""
    wanted = wanted & (found.score > 0)
    different, column = np.unique(identity[wanted], axis=0, return_inverse=True)
    if known is not None:
        column = np.searchsorted(known, different[:, 0])[column.ravel()]
    shape = (n_samples, len(different) if known is None else len(known))
    weights = csr_array((found.score[wanted], (found.target[wanted], column.ravel())), shape=shape)
    weights.sum_duplicates()
    weights.data = np.sqrt(weights.data)
    return weights


def _cosines(weights: csr_array) -> Similarity:
    dots = (weights @ weights.T).toarray()
    norms = np.sqrt(dots.diagonal())
    cosines = dots / np.maximum(norms[:, None] * norms[None], np.finfo(np.float64).tiny)
    nothing = norms == 0
    cosines[np.ix_(nothing, nothing)] = 1  # samples without any sources have similarity 1
    return cosines


def cut_apart(
    views: Sequence[View], min_size: int, among: Int64[np.ndarray, " m"] | None = None
) -> Int64[np.ndarray, " m"]:
    """A cluster for each sample (or for those in `among`), found by repeated cuts in two, for as long as a cut is
    cheap.

    The first of the `views` with a cut cheap enough for it and at least `min_size` samples on each side is used.
    """
    n = len(views[0].similarity) if among is None else len(among)
    of = np.arange(n) if among is None else among
    labels, n_done, waiting = np.zeros(n, np.int64), 0, [np.arange(n)]
    while waiting:
        part = waiting.pop()
        side = _first_cut(views, of[part], min_size)
        if side is None:
            labels[part] = n_done
            n_done += 1
        else:
            waiting += [part[side], part[~side]]
    return labels


def _first_cut(views: Sequence[View], part: Int64[np.ndarray, " m"], min_size: int) -> Bool[np.ndarray, " m"] | None:
    if len(part) < 2 * min_size:
        return None
    for view in views:
        found = best_cut(view.similarity[np.ix_(part, part)], min_size)
        if found.value <= view.max_cut:
            return found.side
    return None


class Cut(NamedTuple):
    """A split of samples in two."""

    side: Bool[np.ndarray, " n"]
    value: float
    """Value of the normalised cut, from 0 to 2."""


def best_cut(similarity: Similarity, min_size: int) -> Cut:
    """The cheapest cut along the order of the second eigenvector with at least `min_size` samples on each side.

    A sample's similarity to itself does not count: samples that have nothing in common are no reason for a cut.
    """
    weights = np.maximum(similarity, 0) + LINK
    np.fill_diagonal(weights, 0)
    degree = weights.sum(0)
    root = np.sqrt(degree)
    vectors = np.linalg.eigh(weights / (root[:, None] * root[None]))[1]
    order = np.argsort(vectors[:, -2] / root, kind="stable")
    volume = np.cumsum(degree[order])
    inside = np.cumsum(np.cumsum(weights[np.ix_(order, order)], 0), 1).diagonal()
    sizes = np.arange(min_size, len(order) - min_size + 1)
    first, total = volume[sizes - 1], volume[-1]
    crossing = first - inside[sizes - 1]
    values = crossing / first + crossing / (total - first)
    cheapest = int(np.argmin(values))
    side = np.zeros(len(order), bool)
    side[order[: sizes[cheapest]]] = True
    return Cut(side, float(values[cheapest]))
