"""Direct contributions: a survey without a sweep, of what reaches a target through one head at most.

The paper's formula for heads, and the same for features and tokens (docs/methods.md, section 5): what a source wrote
reaches the target's token through the residual stream or through a single head, and is read there as it is. Paths
through two heads and more, and through the bypasses of skip transcoders, are left out, so that what is found does not
sum to the activation.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuitlens.attribution import (
    Contributions,
    Targets,
    batches,
    begin,
    counts_above,
    enter,
    full_batch,
    halved,
    read_mlp,
)
from interp.circuitlens.frozen import Frozen
from interp.circuitlens.linear import AttentionWeights, LinearModel
from interp.circuitlens.rows import add_heads, add_tokens, read_tokens

T = TypeVar("T")


@torch.no_grad()
def direct_heads(
    linear: LinearModel, frozen: Frozen, targets: Targets
) -> Float[Tensor, "n_layers n_heads n_pos batch"]:
    """The direct contribution of each head below a target's layer, from each source token to the target's token.

    The paper's formula: the query is the target's token, and what the head writes there is read by the target
    directly. No sweep is needed. Memory: the result (twice, unless targets come in descending order of layers), and
    twice one layer of it.
    """
    n = len(targets)
    scores = torch.zeros(linear.n_layers, linear.n_heads, frozen.n_pos, n, device=targets.direction.device)
    order = torch.argsort(targets.layer, descending=True, stable=True)
    sorted_ = targets.at(order)
    counts = counts_above(sorted_.layer, linear.n_layers)
    for layer, (at, weights) in enumerate(zip(frozen.layers, linear.attention, strict=True)):
        first = counts[layer + 1] if linear.reads == "attention" else 0
        read = slice(first, counts[layer + 1] if linear.reads == "block" else counts[layer])
        u = (sorted_.direction[read] @ weights.W_O.flatten(0, 1).T).T.unflatten(0, weights.W_O.shape[:2])
        taken = at.pattern[:, sorted_.position[read]].transpose(1, 2)
        scores[layer][:, :, read] = torch.bmm(at.values.transpose(0, 1), u) * taken
    as_asked = torch.arange(n, device=order.device)
    return scores if torch.equal(order, as_asked) else scores[..., torch.argsort(order)]


def direct_contributions(
    linear: LinearModel, frozen: Frozen, targets: Targets, *, max_bytes: int
) -> Iterator[Contributions]:
    """The direct contributions of sources to targets of one sequence, in batches like those of `contributions`.

    What a target reads from a source token through the heads of one layer is a sum over heads of one vector, computed
    once for the target, times how much its token attends there: 4 d² operations a layer and target, and 2 d for each
    head, token and layer, where a sweep has 8 d² for each token and layer.
    """
    return attributed_directly(linear, frozen, targets, lambda found: found, max_bytes=max_bytes)


@torch.no_grad()
def attributed_directly(
    linear: LinearModel, frozen: Frozen, targets: Targets, use: Callable[[Contributions], T], *, max_bytes: int
) -> Iterator[T]:
    """What `use` makes of each batch of `direct_contributions`, as in `attribution.attributed`."""

    def read(which: Tensor) -> T:
        return use(_read_directly(linear, frozen, targets.at(which), which))

    full = full_batch(linear, frozen, max_bytes)
    for batch in batches(linear, frozen, targets, max_bytes):
        yield from halved(frozen, batch, full, read)


def _read_directly(linear: LinearModel, frozen: Frozen, targets: Targets, which: Tensor) -> Contributions:
    """Like a sweep, except that only the targets' own directions at their own tokens are carried through heads."""
    counts, rows, found = begin(linear, frozen, targets, which, heads=False)
    for layer in reversed(range(min(linear.n_layers, int(targets.layer.max()) + 1))):
        at, start, stop = frozen.layers[layer], 0, counts[layer + 1]
        read_mlp(frozen, layer, rows.of(stop), found)
        if linear.reads == "attention":  # its output alone, so that those of other layers pass it by
            start = stop
        if linear.reads != "block":
            stop = counts[layer]
            enter(rows, targets, counts[layer + 1], stop)
        reading = rows.of(stop, start)
        add_tokens(at.attention_bias, reading, found.bias[start:])
        if linear.reads == "attention":
            reading.g[:] = 0
        its = torch.arange(start, stop, device=rows.g.device)
        add_heads(
            at.pattern, _through_heads(linear.attention[layer], targets.direction[its]), targets.position[its], reading
        )
        if linear.reads == "block":
            enter(rows, targets, stop, counts[layer])
    read_tokens(frozen.embedding, rows, found.tokens)
    if frozen.position_embedding is not None:
        add_tokens(frozen.position_embedding, rows, found.bias)
    return found


def _through_heads(
    weights: AttentionWeights, direction: Float[Tensor, "k d_model"]
) -> Float[Tensor, "k n_heads d_model"]:
    """What targets read through each head of a layer, as if the head took its input from one token alone."""
    n_heads, d_head, d_model = weights.W_O.shape
    n_kv_heads, k = weights.W_V.shape[0], len(direction)
    n_each = n_heads // n_kv_heads
    u = (direction @ weights.W_O.flatten(0, 1).T).view(k, n_kv_heads, n_each, d_head).transpose(0, 1)
    v = torch.bmm(u.reshape(n_kv_heads, k * n_each, d_head), weights.W_V)
    return v.view(n_kv_heads, k, n_each, d_model).transpose(0, 1).reshape(k, n_heads, d_model)
