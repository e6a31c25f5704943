"""Features with a known meaning: their activation follows one concept."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64
from scipy.sparse import csr_array

from interp.known_answers.stream import Concept, Stream
from interp.sparse import FeatureTokens

LEAST_AREA = 0.95
"""A feature follows a concept if its activation separates the concept's tokens from others with at least this AUROC,"""

LEAST_PRECISION = 0.5
"""and at least this share of its activation is on them. AUROC alone is not enough: a feature that fires on much else
can have a high AUROC for a rare concept."""

LEAST_TOKENS = 20
"""Fewest tokens of a concept in each half of the text; rarer concepts are left out."""


class Halves(NamedTuple):
    """The tokens that count: of documents on which features are found, and of those on which words are tested."""

    find: Bool[np.ndarray, " n"]
    test: Bool[np.ndarray, " n"]


class Labels(NamedTuple):
    """The concepts of every token of a text."""

    names: tuple[str, ...]
    masks: Float32[np.ndarray, "n concepts"]
    """1 where a token belongs to a concept, by concept in order."""

    def of(self, name: str) -> Float32[np.ndarray, " n"]:
        """For each token, 1 where it belongs to this concept."""
        return self.masks[:, self.names.index(name)]


class Follower(NamedTuple):
    """A feature and the concept that it follows."""

    layer: int
    feature: int
    concept: str
    area: float
    """AUROC on the half on which it was found."""
    precision: float
    """Share of its activation on the concept's tokens, on that half."""
    area_test: float
    """AUROC on the other half; `precision_test` is the share there."""
    precision_test: float


def label(stream: Stream, halves: Halves, concepts: tuple[Concept, ...]) -> Labels:
    """Apply every concept's program to a stream; concepts too rare in a half are left out."""
    columns = ((concept.name, concept.program(stream)) for concept in concepts)
    common = [(name, mask) for name, mask in columns if min((mask & half).sum() for half in halves) >= LEAST_TOKENS]
    masks = np.stack([mask for _, mask in common], 1) if common else np.zeros((len(stream.ids), 0))
    return Labels(tuple(name for name, _ in common), masks.astype(np.float32))


def followers(layer: int, active: FeatureTokens, labels: Labels, halves: Halves) -> Iterator[Follower]:
    """The features of a layer that follow a concept, each with the concept of greatest AUROC times precision. `active`
    has the tokens of the stream at which features are active.

    Memory: 16 bytes for each pair of feature and concept.
    """
    found, tried = (_half(active, half) for half in halves)
    masks = labels.masks * halves.find[:, None]
    n_tokens = masks.sum(0)
    shape = active.n_features, len(masks)
    here = csr_array((np.ones(len(found.token), np.float32), found.token, found.indptr), shape=shape) @ masks
    mass = csr_array((found.value, found.token, found.indptr), shape=shape) @ masks
    total = np.add.reduceat(np.r_[found.value, 0], found.indptr[:-1]) * (np.diff(found.indptr) > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.nan_to_num(mass / total[:, None])
    # of a share r of active tokens, the AUROC is at most r + (1 - r) / 2
    likely = (here >= (2 * LEAST_AREA - 1) * n_tokens) & (precision >= LEAST_PRECISION)
    for feature in np.flatnonzero(likely.any(1)).tolist():
        offers = []
        for concept in np.flatnonzero(likely[feature]).tolist():
            area = auroc(*_at(found, feature), labels.masks[:, concept], halves.find)
            if area > LEAST_AREA:
                offers.append((area * precision[feature, concept], -concept, area))
        if offers:
            _, place, area = max(offers)
            token, value = _at(tried, feature)
            mask = labels.masks[:, -place]
            yield Follower(
                layer, feature, labels.names[-place], area, float(precision[feature, -place]),
                auroc(token, value, mask, halves.test), share_on(token, value, mask),
            )  # fmt: skip


def _half(active: FeatureTokens, half: Bool[np.ndarray, " n"]) -> FeatureTokens:
    """The activations at some of the tokens."""
    kept = half[active.token]
    indptr = np.r_[0, np.cumsum(kept)][active.indptr]
    return FeatureTokens(indptr, active.token[kept], active.value[kept])


def _at(active: FeatureTokens, feature: int) -> tuple[Int64[np.ndarray, " m"], Float32[np.ndarray, " m"]]:
    own = slice(active.indptr[feature], active.indptr[feature + 1])
    return active.token[own].astype(np.int64), active.value[own]


def share_on(
    token: Int64[np.ndarray, " m"], value: Float32[np.ndarray, " m"], mask: Float32[np.ndarray, " n"]
) -> float:
    """The share of an activation that is on some tokens; 0 without activation."""
    total = float(value.sum())
    return float((value * mask[token]).sum()) / total if total else 0.0


def auroc(
    token: Int64[np.ndarray, " m"],
    value: Float32[np.ndarray, " m"],
    mask: Float32[np.ndarray, " n"],
    among: Bool[np.ndarray, " n"],
) -> float:
    """AUROC of an activation, which is 0 except at `m` tokens, for a concept's tokens against others; NaN where there
    are none of one."""
    n_meant = int((mask[among] > 0).sum())
    n_other = int(among.sum()) - n_meant
    is_meant = mask[token] > 0
    meant, other = value[is_meant], np.sort(value[~is_meant])
    wins = np.searchsorted(other, meant) + 0.5 * (
        np.searchsorted(other, meant, side="right") - np.searchsorted(other, meant)
    )
    silent_meant, silent_other = n_meant - len(meant), n_other - len(other)
    total = wins.sum() + len(meant) * silent_other + 0.5 * silent_meant * silent_other
    return float(total / (n_meant * n_other)) if n_meant and n_other else float("nan")
