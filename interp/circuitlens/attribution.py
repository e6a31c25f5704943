"""Carry reading directions back through a frozen model to all sources that contribute to the reading.

A target is a linear reading of the residual stream at one token: a feature's pre-activation, or a logit. Its gradient
`g[s]` with respect to what is written at token s is carried down layer by layer, for many targets of one sequence at
once, as matrix products; automatic differentiation is not needed, because the frozen model is linear. The contribution
of a source is what it wrote times `g`. Contributions sum to the reading (docs/methods.md, section 5).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from interp.activations.encoding import Encoder
from interp.batches import each_batch
from interp.circuitlens.frozen import Frozen, FrozenLayer
from interp.circuitlens.linear import LinearModel, reading
from interp.circuitlens.rows import Rows, add_tokens, mixed, n_rows, read_tokens, zero_rows
from interp.circuitlens.written import read_written
from interp.transcoder import Transcoder
from interp.weightlens.coordinates import fold_norm

GRADIENT_NUMBERS = 3 << 20
"""Size of a batch's gradients (tokens of all targets x d_model) on the CPU: 12 MB, enough for matrix products at full
speed. Weights and decoder rows are read from memory once a batch; larger batches gain nothing there. A GPU needs larger
ones."""

BUFFERS = 6
"""Arrays of the size of a batch's gradients that one step of the sweep needs at the same time."""

T = TypeVar("T")


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


def contributions(
    linear: LinearModel, frozen: Frozen, targets: Targets, *, max_bytes: int, heads: bool = False
) -> Iterator[Contributions]:
    """Attribute targets of one sequence, in batches of neighbouring tokens; with `heads`, also to heads.

    A batch covers the sequence up to its last target. Memory: at most `max_bytes` for a batch, except for a single
    target; less where the device has no room for that.
    """
    return attributed(linear, frozen, targets, lambda found: found, max_bytes=max_bytes, heads=heads)


@torch.no_grad()
def attributed(
    linear: LinearModel,
    frozen: Frozen,
    targets: Targets,
    use: Callable[[Contributions], T],
    *,
    max_bytes: int,
    heads: bool = False,
) -> Iterator[T]:
    """What `use` makes of each batch of `contributions`. Where memory has no room for what `use` needs, batches are
    halved too."""

    def sweep(which: Tensor) -> T:
        return use(_sweep(linear, frozen, targets.at(which), which, heads))

    full = full_batch(linear, frozen, max_bytes, heads=heads)
    for batch in batches(linear, frozen, targets, max_bytes, heads=heads):
        yield from halved(frozen, batch, full, sweep)


def halved(frozen: Frozen, batch: Int64[Tensor, " batch"], full: int, run: Callable[[Tensor], T]) -> Iterator[T]:
    """The result of `run` for a batch of targets, or for parts of it where memory has no room for the whole. `full` is
    `full_batch`."""
    run_part: Callable[[slice], T] = lambda part: run(batch[part])  # noqa: E731
    return each_batch("attribution", batch.device, len(batch), max(len(batch), full), run_part, frozen.n_pos)


def full_batch(linear: LinearModel, frozen: Frozen, max_bytes: int, *, heads: bool = False) -> int:
    """The number of targets at the last token of a sequence that are attributed together in this memory (at least
    one)."""
    n_pos, d_model = frozen.embedding.shape
    n_numbers = BUFFERS * n_pos * d_model + frozen.n_active + _per_token(linear, heads=heads) * n_pos
    return max(1, max_bytes // (4 * n_numbers))


def _per_token(linear: LinearModel, *, heads: bool) -> int:
    """The number of contributions of one token to one target, besides those of its features: errors, the embedding, and
    heads."""
    return linear.n_layers + 1 + (linear.n_layers * linear.n_heads if heads else 0)


def batches(
    linear: LinearModel, frozen: Frozen, targets: Targets, max_bytes: int, *, heads: bool = False
) -> Iterator[Int64[Tensor, " batch"]]:
    """Targets at neighbouring tokens, as many as are attributed together, those of the highest layers first."""
    order = torch.argsort(targets.position, stable=True)
    d_model = frozen.embedding.shape[1]
    while len(order):
        position = targets.position[order]
        n_pos, gradients = position + 1, n_rows(position) * d_model
        at_once = torch.arange(1, len(order) + 1, device=order.device)
        n_bytes = 4 * (BUFFERS * gradients + at_once * (frozen.n_active + _per_token(linear, heads=heads) * n_pos))
        fits = n_bytes <= max_bytes
        if order.device.type == "cpu":
            fits &= gradients <= GRADIENT_NUMBERS
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
    n_pos = int(targets.position.max()) + 1
    observe: Callable[[int, Rows], None] = lambda layer, above: found.update({layer: above.dense(n_pos)})  # noqa: E731
    _sweep(linear, frozen, targets.at(order), order, heads=False, observe=observe)
    return found


def _sweep(
    linear: LinearModel,
    frozen: Frozen,
    targets: Targets,
    which: Tensor,
    heads: bool,
    observe: Callable[[int, Rows], None] = lambda layer, above: None,
) -> Contributions:
    """Carry the gradients of a batch from the top layer down to the embedding. The targets of the highest layers come
    first; a layer changes their rows in place."""
    counts, rows, found = begin(linear, frozen, targets, which, heads)
    token = rows.token() if heads or any(at.skip is not None for at in frozen.layers) else None
    for layer in reversed(range(min(linear.n_layers, int(targets.layer.max()) + 1))):
        at, beneath = frozen.layers[layer], rows.of(counts[layer + 1])
        read_mlp(frozen, layer, beneath, found)
        bypass = None
        if at.skip is not None and token is not None:
            scale = (at.read_scale * at.write_scale)[token[: len(beneath.g)], None]
            bypass = (beneath.g @ at.skip) * scale
        above = beneath
        if linear.reads != "block":
            if bypass is not None:
                beneath.g.add_(bypass)
            above = enter(rows, targets, counts[layer + 1], counts[layer])
        observe(layer, above)
        add_tokens(at.attention_bias, above, found.bias)
        weights = linear.attention[layer]
        u = product(above.g, weights.W_O.flatten(0, 1).T)
        if found.heads is not None and token is not None:
            _read_heads(at, u, above, token, found.heads[layer])
        z = mixed(at.pattern, u, above, weights.W_V.shape[0])
        if linear.reads == "attention":  # what reads its output alone does not see the stream that it is added to
            rows.g[len(beneath.g) : len(above.g)] = 0
        elif linear.reads == "block" and bypass is not None:
            beneath.g.add_(bypass)
        add_product(above.g, z, weights.W_V.flatten(0, 1))
        if linear.reads == "block":
            enter(rows, targets, counts[layer + 1], counts[layer])
    read_tokens(frozen.embedding, rows, found.tokens)
    if frozen.position_embedding is not None:
        add_tokens(frozen.position_embedding, rows, found.bias)
    return found


def counts_above(layer: Tensor, n_layers: int) -> list[int]:
    """For each layer, the number of targets that read at that layer or above."""
    below = torch.arange(n_layers + 1, device=layer.device)
    return (layer[None] >= below[:, None]).sum(1).tolist()


class Beginning(NamedTuple):
    """A batch of targets before the sweep through the layers: its first gradients, and buffers for contributions."""

    counts: list[int]
    """For each layer, the number of targets that read there or above, as in `counts_above`."""
    rows: Rows
    """Gradients of all targets: zeros, except for those of logits."""
    found: Contributions
    """The buffers for contributions: zeros, with the targets' constant parts as biases."""


def begin(linear: LinearModel, frozen: Frozen, targets: Targets, which: Tensor, heads: bool) -> Beginning:
    """Allocate the gradients of a batch of targets and the contributions to them."""
    zeros, n, n_pos = targets.direction.new_zeros, len(targets), int(targets.position.max()) + 1
    counts, rows = counts_above(targets.layer, linear.n_layers), zero_rows(targets.position, targets.direction)
    enter(rows, targets, 0, counts[linear.n_layers])
    found = Contributions(
        target=which,
        features=zeros(frozen.n_active, n),
        errors=zeros(linear.n_layers, n_pos, n),
        tokens=zeros(n_pos, n),
        bias=targets.constant.clone(),
        heads=zeros(linear.n_layers, linear.n_heads, n_pos, n) if heads else None,
    )
    return Beginning(counts, rows, found)


def enter(rows: Rows, targets: Targets, start: int, stop: int) -> Rows:
    """Add the targets from `start` to `stop` to the sweep: their gradients, 0 so far, become their own directions.
    Returns the rows of the first `stop` targets."""
    if start < stop:
        own = torch.from_numpy(rows.first[start:stop]).to(rows.g.device) + targets.position[start:stop]
        rows.g[own] = targets.direction[start:stop]
    return rows.of(stop)


def read_mlp(frozen: Frozen, layer: int, rows: Rows, found: Contributions) -> None:
    """What features, error and constant wrote to one layer's MLP output, times the gradient there."""
    if rows.n_targets == 0:
        return
    at, firsts = frozen.layers[layer], frozen.first_active
    read_tokens(at.error, rows, found.errors[layer])
    add_tokens(at.mlp_bias, rows, found.bias)
    weight = at.written[-1].weight
    seen = rows if weight is None else rows._replace(g=rows.g * weight)
    for source, written in enumerate(at.written, layer + 1 - len(at.written)):
        read_written(written, frozen.layers[source].active, seen, found.features[firsts[source] : firsts[source + 1]])


def product(a: Float[Tensor, "n m"], W: Tensor) -> Float[Tensor, "n k"]:
    """The product with a weight matrix, computed in the precision of the weights: float32, or that of `rounded`."""
    return a.to(W.dtype) @ W


def add_product(out: Float[Tensor, "n k"], a: Float[Tensor, "n m"], W: Tensor) -> None:
    """The same, added to `out`."""
    if W.dtype == out.dtype:
        out.addmm_(a, W)
    else:
        out.add_(a.to(W.dtype) @ W)


def _read_heads(at: FrozenLayer, u: Tensor, rows: Rows, token: Tensor, out: Tensor) -> None:
    """The contributions of each head from each source token, summed over queries."""
    n_heads = len(at.pattern)
    z, here = mixed(at.pattern, u, rows, n_heads).float().unflatten(1, (n_heads, -1)), token[: len(u)]
    out[:, here, rows.target()] = (z * at.values[here]).sum(2).T
