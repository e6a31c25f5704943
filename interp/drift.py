"""Match a layer's features between two checkpoints: which feature of one corresponds to which of the other.

The similarity of two features is the mean of their encoders' cosine and their decoders' cosine. They are matched one to
one: first those that are each other's best, then the rest in the same way, until no two are similar enough. The result
is a stable matching: no two features would both prefer each other to their matches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float, Float64, Int64
from scipy import sparse
from torch import Tensor

from interp.sparse import FeatureTokens

Fate = Literal["kept", "moved", "born", "died"]

ROWS_PER_BLOCK = 256
"""Features of one checkpoint compared at a time with all of the other: 134 MB for 131 thousand."""


@dataclass(frozen=True)
class DriftSettings:
    """When two features count as the same."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    match_cosine: Annotated[float, Gt(0), Le(1)] = 0.7
    """Two features are matched if the mean of the encoders' and the decoders' cosine is at least this."""
    kept_cosine: Annotated[float, Gt(0), Le(1)] = 0.95
    """A matched feature was kept as it was if both cosines are at least this; otherwise it moved."""
    n_positions: Annotated[int, Ge(0)] = 65_536
    """Fewest positions of the corpus on which the activations of matched features are compared; 0: they are matched by
    weights only."""

    def __post_init__(self) -> None:
        if self.kept_cosine < self.match_cosine:
            raise ValueError(f"kept_cosine is {self.kept_cosine}, less than match_cosine, {self.match_cosine}")


class Matches(NamedTuple):
    """Pairs of features, ordered by the first of each."""

    a: Int64[np.ndarray, " n"]
    b: Int64[np.ndarray, " n"]
    cosine_enc: Float64[np.ndarray, " n"]
    cosine_dec: Float64[np.ndarray, " n"]

    def fates(self, settings: DriftSettings) -> list[Fate]:
        """For each pair, whether the feature was kept or moved."""
        kept = np.minimum(self.cosine_enc, self.cosine_dec) >= settings.kept_cosine
        return ["kept" if is_kept else "moved" for is_kept in kept]


class Directions(NamedTuple):
    """A layer's encoders and decoders, a row for each feature."""

    W_enc: Float[Tensor, "d_transcoder d_model"]
    W_dec: Float[Tensor, "d_transcoder d_model"]

    def likeness_rows(self) -> Float[Tensor, "d_transcoder two_d_model"]:
        """Rows whose products are the mean of two cosines. A row of zeros is similar to nothing."""
        unit = [torch.nn.functional.normalize(weights.float(), dim=1) for weights in self]
        return torch.cat(unit, 1) / 2**0.5


def match(a: Directions, b: Directions, settings: DriftSettings) -> Matches:
    """Match the features of a layer in two checkpoints.

    Memory: the layer's weights of both in float32, and `ROWS_PER_BLOCK` rows of similarities.
    """
    rows_a, rows_b = a.likeness_rows(), b.likeness_rows()
    left_a, left_b = torch.arange(len(rows_a)), torch.arange(len(rows_b))
    found_a, found_b = [], []
    while len(left_a) and len(left_b):
        pair_a, pair_b = _mutual_best(rows_a[left_a], rows_b[left_b], settings.match_cosine)
        if len(pair_a) == 0:
            break
        found_a.append(left_a[pair_a])
        found_b.append(left_b[pair_b])
        left_a, left_b = _without(left_a, pair_a), _without(left_b, pair_b)
    nothing = torch.zeros(0, dtype=torch.long)
    pairs_a, pairs_b = torch.cat([nothing, *found_a]), torch.cat([nothing, *found_b])
    order = pairs_a.argsort()
    pairs_a, pairs_b = pairs_a[order], pairs_b[order]
    return Matches(
        pairs_a.numpy(),
        pairs_b.numpy(),
        _cosines(a.W_enc, b.W_enc, pairs_a, pairs_b),
        _cosines(a.W_dec, b.W_dec, pairs_a, pairs_b),
    )


def _mutual_best(
    rows_a: Float[Tensor, "n_a width"], rows_b: Float[Tensor, "n_b width"], threshold: float
) -> tuple[Tensor, Tensor]:
    """Pairs of rows that are each other's best and similar enough; among equals, the earlier is better."""
    best_of_a, likeness = [], []
    best, best_of_b = torch.full((len(rows_b),), -2.0), torch.zeros(len(rows_b), dtype=torch.long)
    for start, block in _blocks(rows_a):
        scores = block @ rows_b.T
        value, index = scores.max(1)
        best_of_a.append(index)
        likeness.append(value)
        value, index = scores.max(0)
        better = value > best
        best = torch.where(better, value, best)
        best_of_b = torch.where(better, index + start, best_of_b)
    chosen, value = torch.cat(best_of_a), torch.cat(likeness)
    index = torch.arange(len(rows_a))
    pair_a = index[(value >= threshold) & (best_of_b[chosen] == index)]
    return pair_a, chosen[pair_a]


def _blocks(rows: Tensor) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(rows), ROWS_PER_BLOCK):
        yield start, rows[start : start + ROWS_PER_BLOCK]


def _without(left: Tensor, taken: Tensor) -> Tensor:
    stays = torch.ones(len(left), dtype=torch.bool)
    stays[taken] = False
    return left[stays]


def _cosines(a: Tensor, b: Tensor, index_a: Tensor, index_b: Tensor) -> Float64[np.ndarray, " n"]:
    cosine = torch.nn.functional.cosine_similarity(a[index_a].double(), b[index_b].double(), dim=1)
    return cosine.clamp(-1, 1).numpy()


def correlation(a: FeatureTokens, b: FeatureTokens, matches: Matches, n_positions: int) -> Float64[np.ndarray, " n"]:
    """Pearson correlation of matched features' activations over `n_positions` positions; NaN where one is constant.

    Memory: twice the active entries of both layers.
    """
    width = 1 + max(int(side.token.max(initial=0)) for side in (a, b))
    x, y = (
        sparse.csr_array((side.value.astype(np.float64), side.token, side.indptr), shape=(side.n_features, width))[rows]
        for side, rows in ((a, matches.a), (b, matches.b))
    )
    sum_x, sum_y = x.sum(1), y.sum(1)
    covariance = x.multiply(y).sum(1) - sum_x * sum_y / n_positions
    variance_x = x.power(2).sum(1) - sum_x**2 / n_positions
    variance_y = y.power(2).sum(1) - sum_y**2 / n_positions
    varies = (variance_x > 0) & (variance_y > 0)
    scale = np.sqrt(np.where(varies, variance_x * variance_y, 1))
    return np.where(varies, np.clip(covariance / scale, -1, 1), np.nan)
