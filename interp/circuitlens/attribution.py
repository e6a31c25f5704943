"""Carry reading directions back through a frozen model to all sources that contribute to the reading.

A target is a linear reading of the residual stream at one token: a feature's pre-activation, or a logit. Its gradient
`g[s]` with respect to what is written at token s is carried down layer by layer, for many targets of one sequence at
once, as matrix products; automatic differentiation is not needed, because the frozen model is linear. The contribution
of a source is what it wrote times `g`. Contributions sum to the reading (docs/methods.md, section 5).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from interp.activations.encoding import Encoder
from interp.circuitlens.frozen import Frozen, FrozenLayer
from interp.circuitlens.linear import LinearModel, reading
from interp.circuitlens.written import read_written
from interp.transcoder import Transcoder
from interp.weightlens.coordinates import fold_norm

GRADIENT_NUMBERS = 3 << 18
"""Size of a batch's gradients (targets x tokens x d_model): 3 MB, enough for matrix products at full speed and small
enough for the processor's cache. In a batch of several targets, each is computed up to the last token of them all."""

BUFFERS = 6
"""Arrays of the size of a batch's gradients that one step of the sweep needs at the same time."""


class Targets(NamedTuple):
    """Linear readings of the residual stream of one sequence."""

    layer: Int64[Tensor, " n"]
    """The layer at whose `LinearModel.reads` it reads, for transcoders the input of its MLP; n_layers for logits."""
    position: Int64[Tensor, " n"]
    direction: Float[Tensor, "n d_model"]
    """The direction of the reading, multiplied by the norm's scale at its token."""
    constant: Float[Tensor, " n"]
    """The constant part of the reading: the encoder's bias."""

    def __len__(self) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return len(self.layer)

    def at(self, index: Int64[Tensor, " m"]) -> "Targets":
        """The targets with these indices."""
        return Targets(*(column[index] for column in self))


class Contributions(NamedTuple):
    """The contribution of each source to each target of a batch."""

    target: Int64[Tensor, " batch"]
    """Indices of the targets in this batch."""
    features: Float[Tensor, "n_active batch"]
    """Active features of all layers, in the order of `Frozen`'s layers. Those at tokens after the batch and in layers
    above a target are 0."""
    errors: Float[Tensor, "n_layers n_pos batch"]
    """Contributions of the transcoders' errors (MLP output that they do not reproduce), by layer and token."""
    tokens: Float[Tensor, "n_pos batch"]
    """Contributions of token embeddings."""
    bias: Float[Tensor, " batch"]
    """Contribution of everything that does not depend on the text: biases, position embeddings, the target's own
    constant."""
    heads: Float[Tensor, "n_layers n_heads n_pos batch"] | None
    """Contributions by head and source token, summed over queries. They split the same sum in another way, and are not
    additional sources."""

    def total(self) -> Float[Tensor, " batch"]:
        """The sum over all sources."""
        return self.features.sum(0) + self.errors.sum((0, 1)) + self.tokens.sum(0) + self.bias


def read_until(layer: Integer[np.ndarray, " n"], position: Integer[np.ndarray, " n"], n_layers: int) -> list[int]:
    """For each layer's MLP, the number of tokens that readings at these layers and positions can depend on, for
    `freeze`."""
    return [int((position[layer > at] + 1).max(initial=0)) for at in range(n_layers)]


def feature_targets(
    linear: LinearModel,
    frozen: Frozen,
    layer: int,
    transcoder: Encoder | Transcoder,
    feature: Integer[Tensor, " n"],
    position: Integer[Tensor, " n"],
) -> Targets:
    """The pre-activations of some features of one layer, each at a token, as targets."""
    feature, position = feature.long(), position.long()
    W, constant = transcoder.W_enc[feature], transcoder.b_enc[feature]
    bias = linear.mlp[layer].read.bias
    if linear.hooks.feature_input == "mlp_in" and bias is not None:
        constant = constant + W @ bias
    direction = reading(linear, layer, W) * frozen.layers[layer].read_scale[position, None]
    return Targets(torch.full_like(feature, layer + linear.reads_above), position, direction, constant)


def logit_targets(
    linear: LinearModel, frozen: Frozen, W_U: Float[Tensor, "n d_model"], position: Integer[Tensor, " n"]
) -> Targets:
    """Rows of the unembedding (or differences of rows) as targets at some tokens; a soft cap on logits is left out."""
    position, norm = position.long(), linear.final
    constant = W_U.new_zeros(len(W_U)) if norm.bias is None else W_U @ norm.bias
    direction = fold_norm(W_U, norm.weight, norm.centred) * frozen.final_scale[position, None]
    return Targets(torch.full_like(position, linear.n_layers), position, direction, constant)


@torch.no_grad()
def contributions(
    linear: LinearModel, frozen: Frozen, targets: Targets, *, max_bytes: int, heads: bool = False
) -> Iterator[Contributions]:
    """Attribute targets of one sequence, in batches of neighbouring tokens; with `heads`, also to heads.

    A batch covers the sequence up to its last target. Memory: at most `max_bytes` for a batch, except for a single
    target.
    """
    for batch in batches(linear, frozen, targets, max_bytes, heads=heads):
        yield _sweep(linear, frozen, targets.at(batch), batch, heads)


def batches(
    linear: LinearModel, frozen: Frozen, targets: Targets, max_bytes: int, *, heads: bool = False
) -> Iterator[Int64[Tensor, " batch"]]:
    """Targets at neighbouring tokens, as many as are attributed together, those of the highest layers first."""
    order = torch.argsort(targets.position, stable=True)
    d_model = frozen.embedding.shape[1]
    while len(order):
        n_pos = targets.position[order] + 1
        per_target = 4 * (BUFFERS * n_pos * d_model + frozen.n_active)
        if heads:
            per_target += 4 * linear.n_layers * linear.n_heads * n_pos
        at_once = torch.arange(1, len(order) + 1, device=order.device)
        fits = (at_once * per_target <= max_bytes) & (at_once * n_pos * d_model <= GRADIENT_NUMBERS)
        n = max(1, int(fits.sum()))
        batch, order = order[:n], order[n:]
        yield batch[torch.argsort(targets.layer[batch], descending=True, stable=True)]


@torch.no_grad()
def attention_gradients(
    linear: LinearModel, frozen: Frozen, targets: Targets
) -> dict[int, Float[Tensor, "n_pos n_targets d_model"]]:
    """The gradients of some targets with respect to what each layer's attention writes, layer by layer.

    Targets are in descending order of layers, and a layer has those that read at it or above. Memory: all of them.
    """
    order, found = torch.argsort(targets.layer, descending=True, stable=True), dict[int, Tensor]()
    _sweep(linear, frozen, targets.at(order), order, heads=False, observe=found.__setitem__)
    return found


def _sweep(
    linear: LinearModel,
    frozen: Frozen,
    targets: Targets,
    which: Tensor,
    heads: bool,
    observe: Callable[[int, Tensor], None] = lambda layer, gradient: None,
) -> Contributions:
    """Carry the gradients of a batch from the top layer down to the embedding. The targets of the highest layers come
    first."""
    n_pos, n = int(targets.position.max()) + 1, len(targets)
    counts, g, features, errors, bias = begin(linear, frozen, targets)
    by_head = torch.zeros(linear.n_layers, linear.n_heads, n_pos, n, device=g.device) if heads else None
    for layer in reversed(range(min(linear.n_layers, int(targets.layer.max()) + 1))):
        at, k = frozen.layers[layer], g.shape[1]
        read_mlp(frozen, layer, g, features, errors[layer], bias)
        above = g
        if at.skip is not None:
            g = g + (g @ at.skip) * (at.read_scale * at.write_scale)[:n_pos, None, None]
        if linear.reads == "mlp":
            above = g = joined(g, targets, k, counts[layer])
        elif linear.reads == "attention":  # what reads its output alone does not see the stream that it is added to
            above = joined(g, targets, k, counts[layer])
            g = torch.cat([g, g.new_zeros(n_pos, above.shape[1] - k, g.shape[2])], 1)
        observe(layer, above)
        bias[: above.shape[1]] += torch.bmm(above, at.attention_bias[:n_pos, :, None]).sum((0, 2))
        g = g + _attention(linear, layer, at, above, None if by_head is None else by_head[layer])
        if linear.reads == "block":
            g = joined(g, targets, k, counts[layer])
    tokens = torch.einsum("skd,sd->sk", g, frozen.embedding[:n_pos])
    if frozen.position_embedding is not None:
        bias += torch.bmm(g, frozen.position_embedding[:n_pos, :, None]).sum((0, 2))
    return Contributions(which, features, errors, tokens, bias, by_head)


def counts_above(layer: Tensor, n_layers: int) -> list[int]:
    """For each layer, the number of targets that read at that layer or above."""
    below = torch.arange(n_layers + 1, device=layer.device)
    return (layer[None] >= below[:, None]).sum(1).tolist()


class Beginning(NamedTuple):
    """A batch of targets before the sweep through the layers: buffers for its contributions, and its first
    gradients."""

    counts: list[int]
    """For each layer, the number of targets that read there or above, as in `counts_above`."""
    gradient: Float[Tensor, "n_pos k d_model"]
    """Gradients of the k targets that read above the top layer (logits)."""
    features: Float[Tensor, "n_active n"]
    """Zeros: the buffer for contributions of active features."""
    errors: Float[Tensor, "n_layers n_pos n"]
    """Zeros: the buffer for contributions of errors."""
    bias: Float[Tensor, " n"]
    """The targets' constant parts, to which biases are added."""


def begin(linear: LinearModel, frozen: Frozen, targets: Targets) -> Beginning:
    """Allocate the contributions to a batch of targets, and begin with the gradients of those above the top layer."""
    n_pos, n = int(targets.position.max()) + 1, len(targets)
    zeros, counts = partial(torch.zeros, device=targets.direction.device), counts_above(targets.layer, linear.n_layers)
    gradient = joined(zeros(n_pos, 0, targets.direction.shape[1]), targets, 0, counts[linear.n_layers])
    features, errors = zeros(frozen.n_active, n), zeros(linear.n_layers, n_pos, n)
    return Beginning(counts, gradient, features, errors, targets.constant.clone())


def joined(g: Float[Tensor, "n_pos k d_model"], targets: Targets, start: int, stop: int) -> Tensor:
    """Append the gradients of the targets from `start` on."""
    if start == stop:
        return g
    new = g.new_zeros(g.shape[0], stop - start, g.shape[2])
    new[targets.position[start:stop], torch.arange(stop - start, device=g.device)] = targets.direction[start:stop]
    return torch.cat([g, new], 1) if start else new


def read_mlp(
    frozen: Frozen, layer: int, g: Float[Tensor, "n_pos k d_model"], features: Tensor, errors: Tensor, bias: Tensor
) -> None:
    """What features, error and constant wrote to one layer's MLP output, times the gradient there."""
    at, (n_pos, k, _) = frozen.layers[layer], g.shape
    errors[:, :k] = torch.bmm(g, at.error[:n_pos, :, None])[:, :, 0]
    bias[:k] += torch.bmm(g, at.mlp_bias[:n_pos, :, None]).sum((0, 2))
    for source, written in enumerate(at.written, layer + 1 - len(at.written)):
        begin, active = frozen.first_active()[source], frozen.layers[source].active
        read_written(written, active, g, features[begin : begin + len(active.feature), :k])


def _attention(
    linear: LinearModel, layer: int, at: FrozenLayer, g: Float[Tensor, "n_pos k d_model"], by_head: Tensor | None
) -> Float[Tensor, "n_pos k d_model"]:
    """The gradient at the input of attention; contributions by head are written to `by_head`.

    Factors of its products have the weights' precision: float32, or that of `rounded`.
    """
    weights, n_pos, k = linear.attention[layer], *g.shape[:2]
    precision = weights.W_O.dtype
    n_heads, d_head, _ = weights.W_O.shape
    n_kv_heads = weights.W_V.shape[0]
    u = (g.flatten(0, 1).to(precision) @ weights.W_O.flatten(0, 1).T).view(n_pos, k, n_heads, d_head)
    u = u.permute(2, 0, 1, 3).reshape(n_heads, n_pos, k * d_head)
    z = torch.bmm(at.pattern[:, :n_pos, :n_pos].to(precision).transpose(1, 2), u).view(n_heads, n_pos, k, d_head)
    if by_head is not None:
        by_head[:, :, :k] = torch.einsum("hske,she->hsk", z.float(), at.values[:n_pos])
    if n_kv_heads < n_heads:
        z = z.unflatten(0, (n_kv_heads, -1)).sum(1)
    z = z.permute(1, 2, 0, 3).reshape(n_pos * k, n_kv_heads * d_head)
    return (z @ weights.W_V.flatten(0, 1)).view(g.shape).float()
