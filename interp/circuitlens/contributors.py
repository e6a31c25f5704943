"""Select the significant contributors to an activation."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from interp.circuitlens.attribution import Contributions
from interp.circuitlens.frozen import Frozen
from interp.circuitlens.kinds import BIAS, ERROR, FEATURE, HEAD, KINDS, MLP, TOKEN
from interp.circuitlens.settings import CircuitLensSettings
from interp.sparse import ranks

NONE = -1
"""The value of a layer, index or position that a kind of contributor does not have."""


LONG_ROWS = 256
"""Number of rows in which scores are compared first."""


class Contributors(NamedTuple):
    """Significant contributors, one a row: by target, then by kind (its index in `KINDS`), the strongest first.

    Errors and biases have one row each for every target, with their sum, whether significant or not, and without a
    share.
    """

    target: Int64[np.ndarray, " n"]
    kind: Int64[np.ndarray, " n"]
    layer: Int64[np.ndarray, " n"]
    unit: Int64[np.ndarray, " n"]
    """The feature, the head, or the token id."""
    position: Int64[np.ndarray, " n"]
    score: Float64[np.ndarray, " n"]
    share: Float64[np.ndarray, " n"]
    """Share of all positive contributions of this kind to the target; NaN where there are none."""

    @classmethod
    def joined(cls, parts: "list[Contributors]") -> "Contributors":
        """The contributors of several batches of targets, in order of targets."""
        empty = [np.zeros(0, np.int64)] * 5 + [np.zeros(0)] * 2
        columns = [np.concatenate([first, *rest]) for first, *rest in zip(empty, *parts, strict=True)]
        order = np.lexsort((-columns[5], columns[1], columns[0]))
        return cls(*(column[order] for column in columns))


def significant(
    frozen: Frozen,
    found: Contributions,
    heads: Float[Tensor, "n_layers n_heads n_pos batch"],
    settings: CircuitLensSettings,
    *,
    whole_mlps: bool = False,
) -> Contributors:
    """The contributors of a batch of targets that have at least `min_share` of their kind, or `share_of_strongest` of
    the strongest. `heads` are the contributions by head that the settings ask for."""
    active = [layer.active for layer in frozen.layers]
    of_layer = np.repeat(np.arange(len(active)), [len(a.feature) for a in active])
    of_feature = torch.cat([a.feature for a in active]).cpu().numpy()
    of_position = torch.cat([a.position for a in active]).cpu().numpy()
    feature, head, token = (standing_out(x, settings) for x in (found.features, heads.flatten(0, 2), found.tokens))
    head_layer, head_index, head_position = np.unravel_index(head.source, tuple(heads.shape[:3]))
    ids = frozen.tokens.cpu().numpy()[token.source]
    at = feature.source
    rows = [
        _rows(FEATURE, feature, layer=of_layer[at], unit=of_feature[at], position=of_position[at]),
        _rows(HEAD, head, layer=head_layer, unit=head_index, position=head_position),
        _rows(TOKEN, token, layer=np.full(len(ids), NONE), unit=ids, position=token.source),
        _mlps(found.errors, settings) if whole_mlps else _sums(ERROR, found.errors.sum((0, 1))),
        _sums(BIAS, found.bias),
    ]
    joined = Contributors.joined(rows)
    return Contributors.joined([joined._replace(target=found.target.cpu().numpy()[joined.target])])


def _mlps(errors: Float[Tensor, "n_layers n_pos batch"], settings: CircuitLensSettings) -> Contributors:
    """The significant MLPs, by token, where they are not split into features: all that they write is error."""
    found = standing_out(errors.flatten(0, 1), settings)
    layer, position = np.unravel_index(found.source, tuple(errors.shape[:2]))
    return _rows(MLP, found, layer=layer, unit=np.full(len(layer), NONE), position=position)


def _rows(kind: str, found: "StandingOut", **where: np.ndarray) -> Contributors:
    layer, unit, position = (np.asarray(where[name], np.int64) for name in ("layer", "unit", "position"))
    kinds = np.full(len(layer), KINDS.index(kind))
    return Contributors(found.target, kinds, layer, unit, position, found.score, found.share)


def _sums(kind: str, score: Float[Tensor, " batch"]) -> Contributors:
    nothing, n = np.full(len(score), NONE), len(score)
    kinds, share = np.full(n, KINDS.index(kind)), np.full(n, np.nan)
    return Contributors(np.arange(n), kinds, nothing, nothing, nothing, score.cpu().double().numpy(), share)


class StandingOut(NamedTuple):
    """Sources of one kind that stand out, by target, the strongest first."""

    source: Int64[np.ndarray, " n"]
    target: Int64[np.ndarray, " n"]
    score: Float64[np.ndarray, " n"]
    share: Float64[np.ndarray, " n"]


def standing_out(scores: Float[Tensor, "n_sources batch"], settings: CircuitLensSettings) -> StandingOut:
    """For each target, the sources with at least `min_share` of its positive contributions or `share_of_strongest` of
    the strongest, at most `max_contributors`.

    Among equal ones, the first in order is the stronger.
    """
    positive = scores.clamp(min=0).sum(0)
    strongest = _greatest(scores) if len(scores) else positive  # the lowest layer has no features below
    least = torch.minimum(settings.min_share * positive, settings.share_of_strongest * strongest)
    least = least.clamp(min=torch.finfo(scores.dtype).tiny)
    source, target = (scores >= least).nonzero(as_tuple=True)
    score = scores[source, target].cpu().double().numpy()
    share = score / positive[target].cpu().double().numpy()
    source, target = source.cpu().numpy(), target.cpu().numpy()
    order = np.lexsort((source, -score, target))
    order = order[ranks(target[order]) < settings.max_contributors]
    return StandingOut(source[order], target[order], score[order], share[order])


def _greatest(scores: Float[Tensor, "n_sources batch"]) -> Float[Tensor, " batch"]:
    """The greatest score of each target: first over many long rows at once, since PyTorch is ten times as slow for
    columns of few numbers."""
    n = len(scores) // LONG_ROWS
    folded = scores[: n * LONG_ROWS].reshape(LONG_ROWS, -1)
    rest = scores[n * LONG_ROWS :]
    return (torch.cat([folded.amax(0).view(n, -1), rest]) if n else rest).amax(0)
