"""Carry what a feature writes forward through a frozen model to the logits."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from interp.circuitlens.frozen import Frozen
from interp.circuitlens.linear import LinearModel
from interp.transcoder import Transcoder

SPARE = 8
"""Candidates beyond the wanted number that are scored again in float64; rounding of float32 cannot swap more."""


class Activations(NamedTuple):
    """Activations of features of any layers on one sequence."""

    layer: Int64[Tensor, " n"]
    feature: Int64[Tensor, " n"]
    position: Int64[Tensor, " n"]
    activation: Float[Tensor, " n"]


@torch.no_grad()
def output_effects(
    linear: LinearModel,
    frozen: Frozen,
    transcoder: Callable[[int], Transcoder],
    active: Activations,
    n_after: int = 0,
) -> Float[Tensor, "n n_after_plus_1 d_model"]:
    """What activations add to the final norm's output at their own tokens and at the `n_after` tokens that follow.

    The product with the unembedding is what they add to the logits (before a soft cap). Paths are those of attribution:
    residual connections, frozen attention, bypasses. Memory: four times the result, and a layer's decoder.

    Raises:
        ValueError: a token after an activation is not in the sequence.
    """
    if len(active.position) and int(active.position.max()) + n_after >= frozen.n_pos:
        raise ValueError(f"n_after is {n_after}, beyond the {frozen.n_pos} tokens of the sequence")
    if linear.hooks.rebuilds:
        return _read_out(linear, frozen, *_effects_of_places(linear, frozen, transcoder, active, n_after))
    order = torch.argsort(active.layer, stable=True)
    layer, feature, position, activation = (column[order] for column in active)
    window = position[:, None] + torch.arange(n_after + 1, device=position.device)
    counts = torch.bincount(layer, minlength=linear.n_layers).tolist()
    written = torch.zeros(0, n_after + 1, frozen.embedding.shape[1], device=position.device)
    later: list[Tensor] = []  # by source layer, what its activations write to the layers above it
    for at in range(linear.n_layers):
        below, frozen_layer = len(written), frozen.layers[at]
        scale = (frozen_layer.write_scale[window], frozen_layer.read_scale[window])
        read = written
        written = written + _attention(linear, frozen, at, written, window[:below])
        if frozen_layer.skip is not None:
            read = read if linear.parallel else written
            written = written + (read @ frozen_layer.skip.T) * (scale[0] * scale[1])[:below, :, None]
        new = slice(below, below + counts[at])
        coder = transcoder(at) if counts[at] else None
        rows = written.new_zeros(counts[at], *written.shape[1:])
        if coder is not None:
            rows[:, 0] = _written(linear, at, coder.W_dec[feature[new]] * activation[new, None], scale[0][new, 0])
        for source, decoders in enumerate(later):
            if decoders.shape[1]:
                begin = sum(counts[:source])
                its = slice(begin, begin + counts[source])
                add = _written(linear, at, decoders[:, at - source - 1] * activation[its, None], scale[0][its, 0])
                written[its, 0] += add
        cross = coder.W_dec_later[feature[new]] if coder is not None and coder.W_dec_later is not None else rows[:, :0]
        later.append(cross)
        written = torch.cat([written, rows])
    result = torch.empty_like(written)
    result[order] = _read_out(linear, frozen, written, window)
    return result


def _read_out(
    linear: LinearModel, frozen: Frozen, written: Float[Tensor, "k window d_model"], at: Int64[Tensor, "k window"]
) -> Float[Tensor, "k window d_model"]:
    """The changes of the final norm's output that follow from changes of the residual stream above all layers."""
    final, norm = written * frozen.final_scale[at, None], linear.final
    return (final - final.mean(-1, keepdim=True) if norm.centred else final) * norm.weight


def _effects_of_places(
    linear: LinearModel, frozen: Frozen, transcoder: Callable[[int], Transcoder], active: Activations, n_after: int
) -> tuple[Float[Tensor, "k window d_model"], Int64[Tensor, "k window"]]:
    """The changes that autoencoders' features make at their places, carried to above all layers; and the windows.

    What is before a block is read by that block's attention; what is after its attention, or after the block, is read
    by the next one's.
    """
    read_from = active.layer + (0 if linear.hooks.feature_output == "resid_pre" else 1)
    window = active.position[:, None] + torch.arange(n_after + 1, device=active.position.device)
    written = torch.zeros(*window.shape, frozen.embedding.shape[1], device=window.device)
    for layer in torch.unique(active.layer).tolist():
        its = active.layer == layer
        W_dec = transcoder(layer).W_dec
        written[its, 0] = W_dec[active.feature[its]] * active.activation[its, None]
    for at in range(linear.n_layers):
        its = read_from <= at
        written[its] += _attention(linear, frozen, at, written[its], window[its])
    return written, window


def _written(
    linear: LinearModel, layer: int, rows: Float[Tensor, "n d_model"], scale: Float[Tensor, " n"]
) -> Float[Tensor, "n d_model"]:
    """A transcoder's output as it arrives in the residual stream."""
    norm = linear.mlp[layer].write
    return (rows if norm is None else rows * norm.weight) * scale[:, None]


def _attention(
    linear: LinearModel,
    frozen: Frozen,
    layer: int,
    x: Float[Tensor, "k window d_model"],
    at: Int64[Tensor, "k window"],
) -> Float[Tensor, "k window d_model"]:
    """The output of attention for a change within each window, in the same window."""
    weights, pattern = linear.attention[layer], frozen.layers[layer].pattern
    n_heads, d_head, _ = weights.W_O.shape
    values = (x @ weights.W_V.flatten(0, 1).T).unflatten(2, (-1, d_head))
    values = values.repeat_interleave(n_heads // weights.W_V.shape[0], 2)
    taken = pattern[:, at[:, :, None], at[:, None]]
    mixed = torch.einsum("hkqs,kshe->kqhe", taken, values)
    return mixed.flatten(2) @ weights.W_O.flatten(0, 1)


class Effects(NamedTuple):
    """The contributions of some vectors to the logits, by vector, then token."""

    vector: Int64[np.ndarray, " n"]
    token: Int64[np.ndarray, " n"]
    effect: Float64[np.ndarray, " n"]


@torch.no_grad()
def strongest_effects(
    vectors: Float64[Tensor, "n d_model"],
    unembedding: Callable[[], Iterator[tuple[int, Float[Tensor, "tile d_model"]]]],
    k: int,
) -> Effects:
    """For each vector, the `k` tokens whose logits it raises most and the `k` tokens whose logits it lowers most.

    Tokens whose logit does not change are left out: a feature of the last layer has no effect after its own token.
    Candidates are found with float32 products and ranked in float64, so that the result does not depend on the other
    vectors of the batch; among equals, the smaller token is the stronger. `unembedding` yields the vocabulary in
    blocks, each with its first token. Memory: a block's products.
    """
    narrow, n = vectors.float(), len(vectors)
    best = [torch.zeros(n, 0) for _ in range(2)]
    tokens = [torch.zeros(n, 0, dtype=torch.int64) for _ in range(2)]
    for start, tile in unembedding():
        products, new = narrow @ tile.float().T, torch.arange(start, start + len(tile)).expand(n, -1)
        for side, sign in enumerate((1, -1)):
            scores = torch.cat([best[side], sign * products], 1)
            best[side], place = scores.topk(min(k + SPARE, scores.shape[1]), 1)
            tokens[side] = torch.cat([tokens[side], new], 1).gather(1, place)
    candidates = torch.cat(tokens, 1)
    exact = torch.zeros(candidates.shape, dtype=torch.float64)
    for start, tile in unembedding():
        vector, place = ((candidates >= start) & (candidates < start + len(tile))).nonzero(as_tuple=True)
        rows = tile[candidates[vector, place] - start].double()
        exact[vector, place] = (vectors[vector] * rows).sum(1)
    kept = []
    for sign, half in zip((1, -1), np.split(np.arange(candidates.shape[1]), 2), strict=True):
        token, effect = candidates[:, half].numpy(), exact[:, half].numpy()
        order = np.lexsort((token, -sign * effect), axis=1)[:, :k]
        vector = np.repeat(np.arange(n), order.shape[1])
        kept.append((vector, *(np.take_along_axis(values, order, 1).ravel() for values in (token, effect))))
    vector, token, effect = (np.concatenate(columns) for columns in zip(*kept, strict=True))
    _, first = np.unique(np.stack([vector, token], 1), axis=0, return_index=True)
    first = first[effect[first] != 0]
    return Effects(vector[first], token[first], effect[first])
