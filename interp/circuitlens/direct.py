"""Direct contributions: a survey without a sweep, of what reaches a target through one head at most.

The paper's formula for heads, and the same for features and tokens (docs/methods.md, section 5): what a source wrote
reaches the target's token through the residual stream or through a single head, and is read there as it is. Paths
through two heads and more, and through the bypasses of skip transcoders, are left out, so that what is found does not
sum to the activation.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuitlens.attribution import Contributions, Targets, batches, begin, counts_above, joined, read_mlp
from interp.circuitlens.frozen import Frozen, FrozenLayer
from interp.circuitlens.linear import AttentionWeights, LinearModel


@torch.no_grad()
def direct_heads(
    linear: LinearModel, frozen: Frozen, targets: Targets
) -> Float[Tensor, "n_layers n_heads n_pos batch"]:
    """The direct contribution of each head below a target's layer, from each source token to the target's token.

    The paper's formula: the query is the target's token, and what the head writes there is read by the target
    directly. No sweep is needed. Memory: the result, and twice one layer of it.
    """
    n = len(targets)
    scores = torch.zeros(linear.n_layers, linear.n_heads, frozen.n_pos, n, device=targets.direction.device)
    order = torch.argsort(targets.layer, descending=True, stable=True)
    sorted_ = targets.at(order)
    counts = counts_above(sorted_.layer, linear.n_layers)
    for layer, (at, weights) in enumerate(zip(frozen.layers, linear.attention, strict=True)):
        first = counts[layer + 1] if linear.reads == "attention" else 0
        read = slice(first, counts[layer + 1] if linear.reads == "block" else counts[layer])
        u = (weights.W_O.flatten(0, 1) @ sorted_.direction[read].T).unflatten(0, weights.W_O.shape[:2])
        taken = at.pattern[:, sorted_.position[read]].transpose(1, 2)
        scores[layer][:, :, order[read]] = torch.bmm(at.values.transpose(0, 1), u) * taken
    return scores


@torch.no_grad()
def direct_contributions(
    linear: LinearModel, frozen: Frozen, targets: Targets, *, max_bytes: int
) -> Iterator[Contributions]:
    """What sources bring to targets of one sequence directly, in batches as `contributions` makes them.

    What a target reads of a source token through the heads of one layer is the sum of a vector for each head, made once
    for the target, by how much its token takes from there: 4 d² operations a layer and target, and 2 d for each head,
    token and layer, where a sweep has 8 d² for each token and layer.
    """
    for batch in batches(linear, frozen, targets, max_bytes):
        yield _read_directly(linear, frozen, targets.at(batch), batch)


def _read_directly(linear: LinearModel, frozen: Frozen, targets: Targets, which: Tensor) -> Contributions:
    """As a sweep, except that a layer's heads are reached by the targets' own directions at their own tokens alone."""
    n_pos = int(targets.position.max()) + 1
    counts, g, features, errors, bias = begin(linear, frozen, targets)
    for layer in reversed(range(min(linear.n_layers, int(targets.layer.max()) + 1))):
        at, k = frozen.layers[layer], g.shape[1]
        read_mlp(frozen, layer, g, features, errors[layer], bias)
        above, first = g, 0
        if linear.reads == "mlp":
            above = g = joined(g, targets, k, counts[layer])
        elif linear.reads == "attention":  # its output alone, so that those of other layers pass it by
            first, above = k, joined(g, targets, k, counts[layer])
            g = torch.cat([g, g.new_zeros(n_pos, above.shape[1] - k, g.shape[2])], 1)
        bias[first : above.shape[1]] += torch.einsum("skd,sd->k", above[:, first:], at.attention_bias[:n_pos])
        its = torch.arange(first, g.shape[1], device=g.device)
        _add_heads(linear.attention[layer], at, targets.at(its), g[:, first:])
        if linear.reads == "block":
            g = joined(g, targets, k, counts[layer])
    tokens = torch.einsum("skd,sd->sk", g, frozen.embedding[:n_pos])
    if frozen.position_embedding is not None:
        bias += torch.bmm(g, frozen.position_embedding[:n_pos, :, None]).sum((0, 2))
    return Contributions(which, features, errors, tokens, bias, None)


def _add_heads(
    weights: AttentionWeights, at: FrozenLayer, targets: Targets, g: Float[Tensor, "n_pos k d_model"]
) -> None:
    """Add to `g` what the first k targets read of each token through this layer's heads."""
    n_pos, k, _ = g.shape
    n_heads, d_head, _ = weights.W_O.shape
    n_kv_heads, d_model = weights.W_V.shape[0], g.shape[2]
    n_each = n_heads // n_kv_heads
    u = (targets.direction[:k] @ weights.W_O.flatten(0, 1).T).view(k, n_kv_heads, n_each, d_head).transpose(0, 1)
    v = torch.bmm(u.reshape(n_kv_heads, k * n_each, d_head), weights.W_V)
    v = v.view(n_kv_heads, k, n_each, d_model).transpose(0, 1).reshape(k, n_heads, d_model)
    taken = at.pattern[:, targets.position[:k], :n_pos].permute(1, 2, 0)
    g.transpose(0, 1).baddbmm_(taken, v)
