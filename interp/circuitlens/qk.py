"""Why a head attended to a token: its score between a query and a key, split into pairs of sources.

Before the softmax (and before a soft cap, which is left out) a head's score is the product of a query and a key, each
linear in the residual stream at its token once norms are frozen: rotated to its position, normalised by head where the
family does so. Both streams are sums of what features, token embeddings, errors and biases wrote, along any frozen
path, so the score is a sum over pairs of such sources (docs/methods.md, section 5; the idea: Kamath et al. 2025,
"Tracing attention computation through feature interactions").

Computing all pairs would cost too much. One backward sweep gives what each source contributes to the score through the
key, for the whole query. The strongest of these, and errors and biases, are carried forward to the key, and one sweep
for each splits its product with the query by the query's sources. The rest of the key is one more column, so that all
parts sum to the score.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from interp.batches import each_batch
from interp.circuitlens.attribution import BUFFERS, Contributions, Targets, contributions
from interp.circuitlens.forward import BIASES, N_SUMS, stream_parts
from interp.circuitlens.frozen import Frozen, inverse_scale
from interp.circuitlens.kinds import BIAS, ERROR, FEATURE, KINDS, TOKEN
from interp.circuitlens.linear import LinearModel
from interp.families import Norm
from interp.weightlens.coordinates import fold_norm

NONE = -1
"""The value of a layer, index or position that a kind of source does not have."""


class AttendedPairs(NamedTuple):
    """Heads of one layer, each with a query token and the key token that it attends to."""

    head: Int64[Tensor, " n"]
    query: Int64[Tensor, " n"]
    """The position of the query."""
    key: Int64[Tensor, " n"]
    """The position of the key."""

    def at(self, start: int, stop: int) -> "AttendedPairs":
        """The heads with these indices."""
        return AttendedPairs(*(column[start:stop] for column in self))


class Sources(NamedTuple):
    """The sources of the residual stream below a layer: active features, tokens, then all errors, and all biases."""

    kind: Int64[np.ndarray, " n"]
    """The index of its kind in `KINDS`."""
    layer: Int64[np.ndarray, " n"]
    unit: Int64[np.ndarray, " n"]
    """The feature, or the token id."""
    position: Int64[np.ndarray, " n"]


class ScoreParts(NamedTuple):
    """One head's score between a query and a key, as a sum of parts."""

    score: Float[Tensor, ""]
    keys: Int64[Tensor, " n_keys"]
    """The sources of the key that have a column of their own, by their index in `Sources`; errors and biases come
    first."""
    pairs: Float[Tensor, "n_sources n_keys"]
    """The part of the score from each source of the query with each source in `keys`."""
    rest: Float[Tensor, " n_sources"]
    """The part of the score from each source of the query with all other sources of the key."""


class QKPairs(NamedTuple):
    """The strongest pairs of some scores, one a row: by score, then by strength. Kinds are indices in `KINDS`."""

    look: Int64[np.ndarray, " n"]
    """Index of the score that the pair is a part of."""
    head_score: Float64[np.ndarray, " n"]
    """The whole score."""
    query: Sources
    key: Sources
    score: Float64[np.ndarray, " n"]


def sources_beneath(frozen: Frozen, layer: int) -> Sources:
    """The sources of the residual stream that a layer's attention reads."""
    active = [at.active for at in frozen.layers[:layer]]
    n_active = sum(len(one.feature) for one in active)
    n_pos, none = frozen.n_pos, np.full(2, NONE)
    parts = [(KINDS.index(FEATURE), n_active), (KINDS.index(TOKEN), n_pos), (KINDS.index(ERROR), 1)]
    kind = np.repeat(*np.array([*parts, (KINDS.index(BIAS), 1)]).T)
    of_layer = [np.full(len(one.feature), at) for at, one in enumerate(active)]
    feature, position = ([getattr(one, name).cpu().numpy() for one in active] for name in ("feature", "position"))
    return Sources(
        kind,
        np.concatenate([*of_layer, np.full(n_pos, NONE), none]),
        np.concatenate([*feature, frozen.tokens.cpu().numpy(), none]),
        np.concatenate([*position, np.arange(n_pos), none]),
    )


@torch.no_grad()
def score_parts(
    linear: LinearModel, frozen: Frozen, layer: int, attended: AttendedPairs, *, n_keys: int, max_bytes: int
) -> Iterator[ScoreParts]:
    """Split the scores of heads of one layer into pairs of sources, one score after the other.

    The `n_keys` features and tokens that contribute most to the score through the key, by magnitude, get columns of
    their own. Each takes a sweep over the layers below. Memory: `max_bytes`, and the pairs of as many scores as fit in
    it.
    """
    beneath = replace(linear, attention=linear.attention[:layer], mlp=linear.mlp[:layer])
    frozen_beneath = replace(frozen, layers=frozen.layers[:layer])
    d_model = frozen.embedding.shape[1]
    per_look = 4 * BUFFERS * frozen.n_pos * d_model * (n_keys + N_SUMS)
    step = max(1, max_bytes // per_look)

    def split(part: slice) -> list[ScoreParts]:
        some = attended.at(part.start, part.stop)
        query = _side(linear, frozen, layer, some.head, some.query, is_key=False)
        key = _side(linear, frozen, layer, some.head, some.key, is_key=True)
        return list(_parted(beneath, frozen_beneath, (query, key), n_keys, max_bytes))

    device, n = frozen.embedding.device, len(attended.head)
    for found in each_batch("attention scores", device, n, step, split, frozen.n_pos):
        yield from found


class _Side(NamedTuple):
    """Queries or keys, each as a linear reading of the residual stream at its token."""

    position: Int64[Tensor, " n"]
    W: Float[Tensor, "n d_head d_model"]
    """From the stream to the vector that is multiplied, including norms' scales, rotation and the scaling of scores."""
    constant: Float[Tensor, "n d_head"]
    value: Float[Tensor, "n d_head"]
    """The vector itself."""


def _side(
    linear: LinearModel,
    frozen: Frozen,
    layer: int,
    head: Int64[Tensor, " n"],
    position: Int64[Tensor, " n"],
    *,
    is_key: bool,
) -> _Side:
    family, model, at = linear.family, linear.model, frozen.layers[layer]
    read = linear.attention[layer].read
    W, b = (family.W_K, family.b_K) if is_key else (family.W_Q, family.b_Q)
    every, bias = W(model, layer).float(), b(model, layer)
    n_heads, d_head, _ = every.shape
    which = head // (linear.n_heads // n_heads)
    constants = every.new_zeros(n_heads, d_head) if bias is None else bias.float()
    if read.bias is not None:
        constants = constants + every @ read.bias
    x, constant = at.resid_pre[position], constants[which]
    every = fold_norm(every.flatten(0, 1), read.weight, read.centred).view(every.shape)
    scale = inverse_scale(read, x)
    rows = every[which] * scale[:, None, None]
    norm = family.query_key_norms(model, layer)[is_key]
    if norm is not None and len(norm.weight) == d_head:
        factor = _head_norm(norm, torch.einsum("ned,nd->ne", rows, x) + constant)
        rows, constant = rows * factor[:, :, None], constant * factor
    elif norm is not None:
        together = (x * scale[:, None]) @ every.flatten(0, 1).T + constants.flatten()
        factor = norm.weight.view(n_heads, d_head)[which] * inverse_scale(norm, together)[:, None]
        rows, constant = rows * factor[:, :, None], constant * factor
    if at.rotation is not None:
        cos, sin = (table[position] for table in at.rotation)
        turn = _pairs_rotated if family.rotated == "pairs" else _rotated
        rows, constant = turn(rows, cos, sin), turn(constant[:, :, None], cos, sin)[:, :, 0]
    scaling = 1.0 if is_key else family.attention_scaling(model, layer)
    rows, constant = scaling * rows, scaling * constant
    return _Side(position, rows, constant, torch.einsum("ned,nd->ne", rows, x) + constant)


def _head_norm(norm: Norm, vector: Float[Tensor, "n d_head"]) -> Float[Tensor, "n d_head"]:
    """The factors by which a norm over d_head multiplies each number, as they were for these vectors."""
    return norm.weight * inverse_scale(norm, vector)[:, None]


def _rotated(
    x: Float[Tensor, "n d_head k"], cos: Float[Tensor, "n d_rotated"], sin: Float[Tensor, "n d_rotated"]
) -> Float[Tensor, "n d_head k"]:
    """The first d_rotated numbers rotated, first half with second half."""
    n = cos.shape[1]
    turned = x[:, :n]
    half = torch.cat([-turned[:, n // 2 :], turned[:, : n // 2]], 1)
    return torch.cat([turned * cos[:, :, None] + half * sin[:, :, None], x[:, n:]], 1)


def _pairs_rotated(
    x: Float[Tensor, "n d_head k"], cos: Float[Tensor, "n d_rotated"], sin: Float[Tensor, "n d_rotated"]
) -> Float[Tensor, "n d_head k"]:
    """The first d_rotated numbers rotated, each even one with the next."""
    n = cos.shape[1]
    turned = x[:, :n]
    neighbours = torch.stack([-turned[:, 1::2], turned[:, ::2]], 2).flatten(1, 2)
    return torch.cat([turned * cos[:, :, None] + neighbours * sin[:, :, None], x[:, n:]], 1)


def _parted(
    linear: LinearModel, frozen: Frozen, sides: tuple[_Side, _Side], n_keys: int, max_bytes: int
) -> Iterator[ScoreParts]:
    """The parts of some scores. `linear` and `frozen` end below the layer of the scores."""
    query, key = sides
    n_listed, device = frozen.n_active + frozen.n_pos, query.position.device
    sums = torch.arange(n_listed, n_listed + N_SUMS, device=device)
    chosen = _strongest_keys(linear, frozen, sides, n_keys, max_bytes)
    carried = torch.unique(torch.cat(chosen))
    parts = stream_parts(linear, frozen, carried)
    vectors: list[Tensor] = []
    for look, own in enumerate(chosen):
        column = torch.cat([torch.arange(N_SUMS, device=device), N_SUMS + torch.searchsorted(carried, own)])
        apart = parts[key.position[look], column] @ key.W[look].T
        apart[BIASES] += key.constant[look]
        vectors.append(torch.cat([apart, (key.value[look] - apart.sum(0))[None]]))
    counts = [len(columns) for columns in vectors]
    of = torch.repeat_interleave(torch.arange(len(chosen), device=device), torch.tensor(counts, device=device))
    found = _by_source(linear, frozen, _targets(linear, query, torch.cat(vectors), of), max_bytes)
    scores = (query.value * key.value).sum(1)
    for look, pairs in enumerate(found.split(counts, 1)):
        yield ScoreParts(scores[look], torch.cat([sums, chosen[look]]), pairs[:, :-1], pairs[:, -1])


def _targets(linear: LinearModel, side: _Side, vectors: Float[Tensor, "m d_head"], of: Int64[Tensor, " m"]) -> Targets:
    """Products of vectors with one side's, as readings of its stream; `of` is the index of that side's vector."""
    direction = torch.einsum("me,med->md", vectors, side.W[of])
    layer = torch.full_like(of, linear.n_layers)
    return Targets(layer, side.position[of], direction, (vectors * side.constant[of]).sum(1))


def _strongest_keys(
    linear: LinearModel, frozen: Frozen, sides: tuple[_Side, _Side], n_keys: int, max_bytes: int
) -> list[Int64[Tensor, " n_chosen"]]:
    """For each score, the features and tokens that contribute most to it through the key, in order of their number."""
    query, key = sides
    targets = _targets(linear, key, query.value, torch.arange(len(query.position), device=query.position.device))
    found = _by_source(linear, frozen, targets, max_bytes)[:-N_SUMS].abs()
    strength, place = found.topk(min(n_keys, len(found)), 0)
    return [place[:, at][strength[:, at] > 0].sort().values for at in range(len(targets))]


def _by_source(
    linear: LinearModel, frozen: Frozen, targets: Targets, max_bytes: int
) -> Float[Tensor, "n_sources n_targets"]:
    """The contribution of each source to each target, with sources in the order of `Sources`."""
    n_sources = frozen.n_active + frozen.n_pos + N_SUMS
    whole = torch.zeros(n_sources, len(targets), device=targets.direction.device)
    for found in contributions(linear, frozen, targets, max_bytes=max_bytes):
        whole[:, found.target] = _stacked(found, frozen.n_pos)
        del found  # so that the next batch has its memory
    return whole


def _stacked(found: Contributions, n_pos: int) -> Float[Tensor, "n_sources batch"]:
    later = found.tokens.new_zeros(n_pos - len(found.tokens), found.tokens.shape[1])
    return torch.cat([found.features, found.tokens, later, found.errors.sum((0, 1))[None], found.bias[None]])


def strongest_pairs(parts: Iterator[ScoreParts], sources: Sources, n_pairs: int) -> QKPairs:
    """For each score, the pairs with the greatest magnitude, at most `n_pairs`; the first among equals."""
    look, whole, query, key, score = [], [], [], [], []
    for at, one in enumerate(parts):
        values = one.pairs.cpu().double().numpy()
        order = np.argsort(-np.abs(values).ravel(), kind="stable")[:n_pairs]
        order = order[values.ravel()[order] != 0]
        row, column = np.unravel_index(order, values.shape)
        look.append(np.full(len(order), at))
        whole.append(np.full(len(order), float(one.score)))
        query.append(row)
        key.append(one.keys.cpu().numpy()[column])
        score.append(values[row, column])
    none, floats = np.zeros(0, np.int64), np.zeros(0)
    look, query, key = (np.concatenate([none, *rows]) for rows in (look, query, key))
    whole, score = (np.concatenate([floats, *rows]) for rows in (whole, score))
    sides = [Sources(*(column[place] for column in sources)) for place in (query, key)]
    return QKPairs(look, whole, sides[0], sides[1], score)
