"""Carry what single sources wrote forward through a frozen model: the residual stream as a sum of parts."""

from collections import deque
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from interp.circuitlens.frozen import Frozen, FrozenLayer
from interp.circuitlens.linear import LinearModel

N_SUMS = 2
"""Number of columns in the result before those of the chosen sources."""
ERRORS, BIASES = range(N_SUMS)
"""The columns for all errors together, and for everything that does not depend on the text."""


@torch.no_grad()
def stream_parts(
    linear: LinearModel, frozen: Frozen, chosen: Int64[Tensor, " n_chosen"]
) -> Float[Tensor, "n_pos n_parts d_model"]:
    """The residual stream above all layers, at every token, split by the sources that wrote it.

    Sources are numbered as in `Contributions`: first the active features of all layers, then the sequence's tokens. The
    first columns are `ERRORS` and `BIASES`, followed by those of `chosen`. Paths are those of attribution: residual
    connections, frozen attention, bypasses. Memory: the result, and five times as much while it is computed.
    """
    return deque(streams_carried(linear, frozen, chosen), maxlen=1).pop()


@torch.no_grad()
def streams_carried(
    linear: LinearModel, frozen: Frozen, chosen: Int64[Tensor, " n_chosen"]
) -> Iterator[Float[Tensor, "n_pos n_parts d_model"]]:
    """The parts of the residual stream below each layer, from the lowest on, and last above all layers; see
    `stream_parts`."""
    firsts, d_model = frozen.first_active, frozen.embedding.shape[1]
    x = frozen.embedding.new_zeros(frozen.n_pos, N_SUMS + len(chosen), d_model)
    if frozen.position_embedding is not None:
        x[:, BIASES] = frozen.position_embedding
    column = torch.arange(N_SUMS, x.shape[1], device=chosen.device)
    is_token = chosen >= firsts[-1]
    token = chosen[is_token] - firsts[-1]
    x[token, column[is_token]] = frozen.embedding[token]
    yield x
    for layer, at in enumerate(frozen.layers):
        read = x
        x = x + _attention(linear, layer, at, x)
        x[:, BIASES] += at.attention_bias
        if at.skip is not None:
            read = read if linear.parallel else x
            x = x + (read @ at.skip.T) * (at.read_scale * at.write_scale)[:, None, None]
        x[:, ERRORS] += at.error
        x[:, BIASES] += at.mlp_bias
        for source, written in enumerate(at.written, layer + 1 - len(at.written)):
            here = (chosen >= firsts[source]) & (chosen < firsts[source + 1])
            index = chosen[here] - firsts[source]
            x[frozen.layers[source].active.position[index], column[here]] += written.at(index)
        yield x


def _attention(
    linear: LinearModel, layer: int, at: FrozenLayer, x: Float[Tensor, "n_pos k d_model"]
) -> Float[Tensor, "n_pos k d_model"]:
    """The output of frozen attention for each part of the stream, without its biases."""
    weights, (n_pos, k, _) = linear.attention[layer], x.shape
    n_heads, d_head, _ = weights.W_O.shape
    values = (x @ weights.W_V.flatten(0, 1).T).unflatten(2, (-1, d_head))
    values = values.repeat_interleave(n_heads // weights.W_V.shape[0], 2)
    values = values.permute(2, 0, 1, 3).reshape(n_heads, n_pos, k * d_head)
    mixed = torch.bmm(at.pattern, values).view(n_heads, n_pos, k, d_head)
    return mixed.permute(1, 2, 0, 3).reshape(n_pos, k, n_heads * d_head) @ weights.W_O.flatten(0, 1)
