"""What became of a layer's features between two checkpoints: which feature of one is which of the other.

Two features are alike as the mean of their encoders' and their decoders' cosine says. They are matched one to one:
those that are each other's best first, then what is left likewise, until no two are alike enough. That is the matching
in which no two features would both rather have each other.
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
"""Features of one checkpoint compared at once with all of the other: 134 MB for 131 thousand."""


@dataclass(frozen=True)
class DriftSettings:
    """From when on two features are the same."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    match_cosine: Annotated[float, Gt(0), Le(1)] = 0.7
    """Mean of the encoders' and the decoders' cosine from which two features are one feature."""
    kept_cosine: Annotated[float, Gt(0), Le(1)] = 0.95
    """Both cosines from which a feature was kept as it was; below, it moved."""
    n_positions: Annotated[int, Ge(0)] = 65_536
    """Positions of the corpus, at least, on which the activations of matched features are compared; 0: none, weights
    alone tell."""

    def __post_init__(self) -> None:
        if self.kept_cosine < self.match_cosine:
            raise ValueError(f"kept_cosine is {self.kept_cosine}, less than match_cosine, {self.match_cosine}")


class Matches(NamedTuple):
    """Pairs of features, by the first of each."""

    a: Int64[np.ndarray, " n"]
    b: Int64[np.ndarray, " n"]
    cosine_enc: Float64[np.ndarray, " n"]
    cosine_dec: Float64[np.ndarray, " n"]

    def fates(self, settings: DriftSettings) -> list[Fate]:
        """Whether each was kept or moved."""
        kept = np.minimum(self.cosine_enc, self.cosine_dec) >= settings.kept_cosine
        return ["kept" if is_kept else "moved" for is_kept in kept]


class Directions(NamedTuple):
    """A layer's encoders and decoders, a row a feature."""

    W_enc: Float[Tensor, "d_transcoder d_model"]
    W_dec: Float[Tensor, "d_transcoder d_model"]

    def likeness_rows(self) -> Float[Tensor, "d_transcoder two_d_model"]:
        """Rows whose products are the mean of two cosines. One of zeros is like nothing."""
        unit = [torch.nn.functional.normalize(weights.float(), dim=1) for weights in self]
        return torch.cat(unit, 1) / 2**0.5


def match(a: Directions, b: Directions, settings: DriftSettings) -> Matches:
    """Match the features of a layer in two checkpoints.

    Memory: the layer's weights of both in float32, and `ROWS_PER_BLOCK` rows of likenesses.
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
    """Pairs of rows that are each other's best and alike enough; of equals the earlier is better."""
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
    """Pearson correlation of matched features' activations over `n_positions` positions; NaN where one never varies.

    Memory: the active entries of both layers, twice.
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
