"""Carry changes through a model whose attention patterns and norm scales stay as they were on the prompt.

What is left of attention and norms is linear, so the change of the residual stream is carried forward, layer by layer,
for many interventions at once. MLPs respond in one of three ways:

- `frozen`: their output does not change, as for the graph's direct edges (the linear bypass of a skip transcoder still
  acts);
- `features`: the features that were active respond linearly until they are inactive, and no other becomes active: the
  sum over all paths of the graph, in which no activation falls below zero;
- `model`: the MLPs themselves are computed anew from the changed stream.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.capture import vectors_of
from interp.circuitlens.attribution import Targets
from interp.circuitlens.frozen import Frozen, FrozenLayer, inverse_scale
from interp.circuitlens.linear import LinearModel, reading
from interp.circuitlens.streams import read_streams
from interp.families import Norm
from interp.interventions.changes import Changes, LayerFeatures, activations_of, decoders_of
from interp.transcoder import Transcoder

Mlps = Literal["frozen", "features", "model"]


@dataclass(frozen=True)
class AtRest:
    """A model frozen on a prompt, its transcoders, and the inputs of its MLPs on the prompt."""

    linear: LinearModel
    frozen: Frozen
    transcoder: Callable[[int], Transcoder]
    streams: dict[Any, Tensor]


def at_rest(linear: LinearModel, frozen: Frozen, transcoder: Callable[[int], Transcoder]) -> AtRest:
    """Record the inputs of the MLPs on the prompt. Memory: the streams of all layers."""
    return AtRest(linear, frozen, transcoder, read_streams(linear, frozen.tokens))


@torch.no_grad()
def changed_readings(
    rest: AtRest, changes: Changes, n_rows: int, targets: Targets, mlps: Mlps
) -> Float[Tensor, "n_rows n_targets"]:
    """The change of each reading in each of `n_rows` copies of the prompt with their changes.

    Memory: some (n_rows, n_pos, d_model) arrays; n_heads/n_kv_heads of them as wide in attention.
    """
    linear, frozen = rest.linear, rest.frozen
    n_pos, d_model = frozen.embedding.shape
    d = torch.zeros(n_rows, n_pos, d_model, device=frozen.embedding.device)
    out = d.new_zeros(n_rows, len(targets))
    later: dict[int, Tensor] = {}
    relative: list[Tensor] = []
    for layer, at in enumerate(frozen.layers):
        attended = _attention(linear, layer, at, d, changes)
        read = d if linear.parallel else d + attended
        _take(out, read, targets, layer)
        written = later.pop(layer, 0) + _mlp(rest, layer, read, relative, mlps)
        features = changes.features_of(layer, d.device)
        if features is not None:
            moved = features.moved(_activations(rest, layer, features, read, relative, mlps))
            for above, decoders in enumerate(decoders_of(rest.transcoder(layer), features.feature), layer):
                if above < linear.n_layers:
                    added = torch.zeros_like(d).index_add_(0, features.row, moved[..., None] * decoders[:, None])
                    added = _through_write_norm(linear, frozen.layers[above], above, added)
                    if above == layer:
                        written = written + added
                    else:
                        later[above] = later.get(above, 0) + added
        d = d + attended + written
    _take(out, d, targets, linear.n_layers)
    return out


def _take(out: Tensor, d: Tensor, targets: Targets, layer: int) -> None:
    here = (targets.layer == layer).nonzero().squeeze(1)
    if len(here):
        out[:, here] = torch.einsum("btd,td->bt", d[:, targets.position[here]], targets.direction[here])


def _attention(linear: LinearModel, layer: int, at: FrozenLayer, d: Tensor, changes: Changes) -> Tensor:
    """The change of what attention writes: values follow the stream, patterns do not change."""
    weights = linear.attention[layer]
    n_heads, n_kv_heads = weights.W_O.shape[0], weights.W_V.shape[0]
    values = torch.einsum("bsd,ked->bske", d, weights.W_V).repeat_interleave(n_heads // n_kv_heads, 2)
    mixed = torch.einsum("hqs,bshe->bqhe", at.pattern, values)
    for one in changes.heads_of(layer):
        where = slice(one.start, one.stop)
        before = at.pattern[one.head, where] @ at.values[:, one.head]
        now = (before + mixed[one.row, where, one.head]) * one.scale
        if one.offset is not None:
            now = now + one.offset * at.attention_write_scale[where, None]
        mixed[one.row, where, one.head] = now - before
    return torch.einsum("bqhe,hed->bqd", mixed, weights.W_O)


def _mlp(rest: AtRest, layer: int, read: Tensor, relative: list[Tensor], mlps: Mlps) -> Tensor:
    """The change of what the MLP writes to the residual stream, before features are changed."""
    at = rest.frozen.layers[layer]
    if mlps == "model":
        return _recomputed(rest, layer, read)
    written = torch.zeros_like(read)
    if at.skip is not None:
        written += (read @ at.skip.T) * (at.read_scale * at.write_scale)[:, None]
    if mlps == "features":
        relative.append(_relative_changes(rest, layer, read))
        for source, rows in enumerate(at.written, layer + 1 - len(at.written)):
            first = rest.frozen.layers[source].active.first
            for position in range(read.shape[1]):
                low, high = first[position], first[position + 1]
                written[:, position] += relative[source][:, low:high] @ rows.at(slice(low, high))
    return written


def _relative_changes(rest: AtRest, layer: int, read: Tensor) -> Float[Tensor, "n_rows n_active"]:
    """For each active feature, the change of its activation over its activation: −1 where it becomes inactive.

    The competition between features of a TopK transcoder is left out.
    """
    at = rest.frozen.layers[layer]
    active, coder = at.active, rest.transcoder(layer)
    directions = reading(rest.linear, layer, coder.W_enc[active.feature])
    found = read.new_zeros(len(read), len(active.feature))
    for position in range(read.shape[1]):
        low, high = active.first[position], active.first[position + 1]
        found[:, low:high] = read[:, position] @ directions[low:high].T * at.read_scale[position]
    least = 0.0 if coder.threshold is None else coder.threshold[active.feature].clamp(min=0)
    return torch.where(active.activation + found > least, found / active.activation, -1)


def _activations(
    rest: AtRest, layer: int, features: LayerFeatures, read: Tensor, relative: list[Tensor], mlps: Mlps
) -> Float[Tensor, "n n_pos"]:
    """The activations of the features that are changed, without their own change."""
    if mlps == "model":
        x = _transcoder_input(rest, layer, read[features.row])
        return activations_of(rest.transcoder(layer), features.feature, x)
    active = rest.frozen.layers[layer].active
    found = read.new_zeros(len(features.row), read.shape[1])
    for index, (row, feature) in enumerate(zip(features.row.tolist(), features.feature.tolist(), strict=True)):
        here = (active.feature == feature).nonzero().squeeze(1)
        value = active.activation[here]
        if mlps == "features":
            value = value * (1 + relative[layer][row, here])
        found[index, active.position[here]] = value
    return found


def _through_write_norm(linear: LinearModel, at: FrozenLayer, layer: int, vectors: Tensor) -> Tensor:
    write = linear.mlp[layer].write
    return vectors if write is None else vectors * write.weight * at.write_scale[:, None]


def _recomputed(rest: AtRest, layer: int, read: Tensor) -> Tensor:
    """What the MLP itself writes on the changed stream, minus what it writes on the prompt's."""
    linear = rest.linear
    block = linear.family.block_modules(linear.model)[layer]
    mlp, norm = linear.family.module(block, linear.family.mlp), linear.mlp[layer].read
    mid = rest.streams["resid_mid", layer]
    before = vectors_of(mlp(_normed(norm, mid, mid)[None]))
    change = vectors_of(mlp(_normed(norm, mid + read, mid))) - before
    write = linear.family.write_norm(linear.model, layer)
    return change if write is None else change * write.weight * inverse_scale(write, before[0])[:, None]


def _normed(norm: Norm, x: Float[Tensor, "*n n_pos d_model"], at: Float[Tensor, "n_pos d_model"]) -> Tensor:
    """`x` through a norm with the scale that it had at `at`."""
    return _divided(norm, x, at) * norm.weight + (0 if norm.bias is None else norm.bias)


def _divided(norm: Norm, x: Float[Tensor, "*n n_pos d_model"], at: Float[Tensor, "n_pos d_model"]) -> Tensor:
    centred = x - x.mean(-1, keepdim=True) if norm.centred else x
    return centred * inverse_scale(norm, at)[:, None]


def _transcoder_input(rest: AtRest, layer: int, read: Tensor) -> Tensor:
    norm, mid = rest.linear.mlp[layer].read, rest.streams["resid_mid", layer]
    if rest.linear.hooks.feature_input == "resid_mid":
        return mid + read
    if rest.linear.hooks.feature_input == "mlp_in_normalized":
        return _divided(norm, mid + read, mid)
    return _normed(norm, mid + read, mid)
