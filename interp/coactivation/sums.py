"""Sums over the tokens at which an earlier and a later feature are both active (TWERA, Ameisen et al. 2025)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64, Integer

from interp.intervals import t_quantile
from interp.kernels import coactivation as kernels
from interp.sparse import FeatureTokens

N_SUMS = kernels.N_SUMS


class TokenFeatures(NamedTuple):
    """Active features of every position of a block: CSR by token."""

    starts: Int32[np.ndarray, " n_positions_plus_1"]
    feature: Int32[np.ndarray, " n"]
    value: Float32[np.ndarray, " n"]


def by_token(active: FeatureTokens, n_positions: int) -> TokenFeatures:
    """A block's list by feature, reordered by token."""
    feature, value = np.empty(len(active.token), np.int32), np.empty(len(active.token), np.float32)
    starts = kernels.by_token(active.indptr, active.token, active.value, n_positions, feature, value)
    return TokenFeatures(starts, feature, value)


def add_coactive(
    sources: FeatureTokens, targets: TokenFeatures, sums: Float64[np.ndarray, "sources targets 3"]
) -> None:
    """Add a block to every pair's Σ a_i a_j, Σ 1(a_j > 0) a_i and count."""
    kernels.add_coactive(sources.indptr, sources.token, sources.value, *targets, sums)


class EdgeSums(NamedTuple):
    """Sums of some edges over a corpus."""

    product: Float64[np.ndarray, " n"]
    """Σ a_i a_j"""
    source_active: Float64[np.ndarray, " n"]
    """Σ 1(a_j > 0) a_i"""
    n_coactive: Int64[np.ndarray, " n"]
    squares: Float64[np.ndarray, " n"]
    """Σ X² over documents, X the document's Σ a_i a_j"""
    cross: Float64[np.ndarray, " n"]
    """Σ X Y over documents, Y the document's Σ a_j"""


class TargetSums(NamedTuple):
    """Sums of some targets over a corpus."""

    total: Float64[np.ndarray, " n"]
    """Σ a_j"""
    squares: Float64[np.ndarray, " n"]
    """Σ Y² over documents"""
    n_documents: Float64[np.ndarray, " n"]
    """Number of documents in which it is active."""

    def of(self, target: Integer[np.ndarray, " m"]) -> "TargetSums":
        """The sums of the targets with these indices."""
        return TargetSums(*(column[target] for column in self))


class Twera(NamedTuple):
    """Expected residual attribution (ERA) of some edges, and its target-weighted form (TWERA) with an interval."""

    era: Float64[np.ndarray, " n"]
    twera: Float64[np.ndarray, " n"]
    low: Float64[np.ndarray, " n"]
    high: Float64[np.ndarray, " n"]


def twera(edges: EdgeSums, targets: TargetSums, virtual_weight: Float64[np.ndarray, " n"], n_tokens: int) -> Twera:
    """ERA and TWERA of edges, and TWERA's 95% interval. `targets` has the target of each edge.

    TWERA is a ratio of two sums over documents, ΣX / ΣY, neither below 0. Its variance is that of X − ratio · Y, with
    documents drawn independently (linearisation): documents, not rows, because the topic of a document is in all its
    rows. A few long documents can dominate the ratio and its variance, so the degrees of freedom are a third of `(ΣY)²
    / ΣY²`, Kish's effective number of documents. The quantile is Student's for these degrees of freedom, and the
    interval is computed for the logarithm, since the ratio is skewed. With fewer than two documents it is NaN.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = edges.product / targets.total
        spread = edges.squares - 2 * ratio * edges.cross + ratio**2 * targets.squares
        n = np.maximum(targets.total**2 / targets.squares / 3, 1.5)
        deviation = np.sqrt(np.maximum(spread, 0) * n / (n - 1)) / targets.total
        factor = np.exp(t_quantile(np.maximum(n - 1, 1)) * deviation / ratio)
    factor[targets.n_documents < 2] = np.nan
    middle = ratio * virtual_weight
    ends = middle / factor, middle * factor
    era = edges.source_active / n_tokens * virtual_weight
    return Twera(era, middle, np.minimum(*ends), np.maximum(*ends))


class Strongest:
    """The `top_k` strongest sources of every target among all that were offered; among equals, those offered first."""

    def __init__(self, n_targets: int, top_k: int) -> None:
        self.top_k = top_k
        self.strength = np.full((n_targets, top_k), -1.0)
        self.layer = np.full((n_targets, top_k), -1)
        self.feature = np.full((n_targets, top_k), -1)
        self.weight = np.full((n_targets, top_k), np.nan)

    def offer(
        self,
        strength: Float64[np.ndarray, "targets sources"],
        weight: Float32[np.ndarray, "targets sources"],
        layer: int,
        first: int,
    ) -> None:
        """Consider the features of a layer from `first` on, with their virtual weights. A strength below 0 is no
        edge."""
        k = min(self.top_k, strength.shape[1])
        best = np.argpartition(-strength, k - 1, axis=1)[:, :k]
        least = np.take_along_axis(strength, best, 1).min(1, keepdims=True)
        unsure = ((strength >= least).sum(1) > k) & (least[:, 0] >= 0)  # the order among equals is arbitrary here
        best[unsure] = np.argsort(-strength[unsure], axis=1, kind="stable")[:, :k]
        best.sort(axis=1)
        offered = {
            "strength": np.take_along_axis(strength, best, 1),
            "layer": np.full(best.shape, layer),
            "feature": first + best,
            "weight": np.take_along_axis(weight, best, 1).astype(np.float64),
        }
        both = {name: np.concatenate([getattr(self, name), values], 1) for name, values in offered.items()}
        order = np.argsort(-both["strength"], axis=1, kind="stable")[:, : self.top_k]
        for name, values in both.items():
            setattr(self, name, np.take_along_axis(values, order, 1))

    def edges(self) -> "Edges":
        """All that were kept, target by target, the strongest first."""
        kept = self.strength >= 0
        return Edges(np.nonzero(kept)[0], self.layer[kept], self.feature[kept], self.weight[kept])


class Edges(NamedTuple):
    """Edges from earlier features to some targets."""

    target: Int64[np.ndarray, " n"]
    """Index within the block of targets, from 0."""
    source_layer: Int64[np.ndarray, " n"]
    source_feature: Int64[np.ndarray, " n"]
    weight: Float64[np.ndarray, " n"]
    """Virtual weight."""

    def where(self, chosen: np.ndarray) -> "Edges":
        """The edges selected by a mask or by indices."""
        return Edges(*(column[chosen] for column in self))


def strength(
    product: Float64[np.ndarray, "sources targets"],
    n_coactive: Float64[np.ndarray, "sources targets"],
    total: Float64[np.ndarray, " targets"],
    weight: Float32[np.ndarray, "targets sources"],
    min_support: int,
) -> Float64[np.ndarray, "targets sources"]:
    """The absolute TWERA of every pair: |Σ a_i a_j / Σ a_j · weight|; −1 where the support is too small.

    `product` is Σ a_i a_j, and `n_coactive` the support, the number of tokens at which both fire, which must reach
    `min_support`; `total` is Σ a_j.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.abs(product.T / total[:, None] * weight)
    return np.where((min_support <= n_coactive.T) & (total[:, None] > 0), value, -1.0)
