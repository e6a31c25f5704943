"""Pass validated tokens along the edges between features, one layer at a time."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from interp.sparse import FeatureTokens

PAIRS_PER_BLOCK = 4_000_000
"""(edge, token) pairs processed at a time: about 200 MB of index arithmetic."""


class Edges(NamedTuple):
    """Edges into a range of features, which are counted from the range's start."""

    target: Int64[np.ndarray, " n"]
    source_layer: Int64[np.ndarray, " n"]
    source_feature: Int64[np.ndarray, " n"]
    weight: Float32[np.ndarray, " n"]
    """Virtual weight."""


class Inherited(NamedTuple):
    """Tokens that features inherit from upstream, by target, then strongest edge, then strongest activation."""

    target: Int64[np.ndarray, " n"]
    token: Int64[np.ndarray, " n"]
    activation: Float32[np.ndarray, " n"]
    source_layer: Int64[np.ndarray, " n"]
    source_feature: Int64[np.ndarray, " n"]
    weight: Float32[np.ndarray, " n"]


def inherit(
    edges: Edges,
    validated: Callable[[int], FeatureTokens],
    single_token: FeatureTokens,
    direct: FeatureTokens,
) -> Inherited:
    """The validated tokens of upstream features that validate on the target itself.

    `validated(layer)` gives all validated tokens of an earlier layer, direct and inherited; `single_token` has the
    single-token activations of the targets; `direct` the targets' own validated candidates, which are not inherited
    again. A token that several sources offer is credited to the strongest edge (then to the lower layer and feature).
    """
    blocks = [_empty()]
    for layer in np.unique(edges.source_layer):
        tokens = validated(int(layer))
        mine = Edges(*(column[edges.source_layer == layer] for column in edges))
        sizes = np.diff(tokens.indptr)[mine.source_feature]
        block = np.cumsum(sizes) // PAIRS_PER_BLOCK
        for number in np.unique(block):
            some = Edges(*(column[block == number] for column in mine))
            blocks.append(_validating(some, tokens, single_token, direct))
        blocks = [_strongest(blocks)]  # at most one entry for each target and token is passed on
    kept = _strongest(blocks)
    order = np.lexsort(
        (kept.token, -kept.activation, kept.source_feature, kept.source_layer, -kept.weight, kept.target)
    )
    return Inherited(*(column[order] for column in kept))


def _empty() -> Inherited:
    whole, real = np.zeros(0, np.int64), np.zeros(0, np.float32)
    return Inherited(whole, whole, real, whole, whole, real)


def _validating(edges: Edges, tokens: FeatureTokens, single_token: FeatureTokens, direct: FeatureTokens) -> Inherited:
    edge, token = tokens.expand(edges.source_feature)
    token = token.astype(np.int64)
    activation = single_token.look_up(edges.target[edge], token)
    keep = (activation > 0) & (direct.look_up(edges.target[edge], token) <= 0)
    edge = edge[keep]
    return Inherited(
        edges.target[edge],
        token[keep],
        activation[keep],
        edges.source_layer[edge],
        edges.source_feature[edge],
        edges.weight[edge],
    )


def _strongest(blocks: list[Inherited]) -> Inherited:
    """One entry for each target and token: that of the strongest edge."""
    all_ = Inherited(*(np.concatenate(columns) for columns in zip(*blocks, strict=True)))
    order = np.lexsort((all_.source_feature, all_.source_layer, -all_.weight, all_.token, all_.target))
    all_ = Inherited(*(column[order] for column in all_))
    if len(all_.target) == 0:
        return all_
    first = np.r_[True, (all_.target[1:] != all_.target[:-1]) | (all_.token[1:] != all_.token[:-1])]
    return Inherited(*(column[first] for column in all_))
