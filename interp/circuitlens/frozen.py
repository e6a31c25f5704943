"""A model that has read one sequence, frozen there: what is left is linear, and every part of it is stored.

Attention patterns and the scales that norms divide by are frozen; MLPs are replaced by what they wrote, as a sum of
transcoder features, a constant and an error (docs/methods.md, section 5; Ameisen et al. 2025). What is left of the
network is the residual stream, attention's values and outputs, and the linear bypass of skip transcoders.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from interp.circuitlens.linear import LinearModel, reading
from interp.circuitlens.streams import Seen, read_streams
from interp.circuitlens.written import Active, Written, active_features, add_written, decoders
from interp.families import Norm
from interp.transcoder import Transcoder, no_features


class FrozenLayer(NamedTuple):
    """One layer on one sequence, with all vectors in the coordinates of the residual stream."""

    pattern: Float[Tensor, "n_heads n_pos n_pos"]
    """Weight of source token s for query token q, (head, q, s), divided by the scales of the norms on the way."""
    values: Float[Tensor, "n_pos n_heads d_head"]
    """The value vectors of each source token, times the scale that `pattern` is divided by."""
    attention_bias: Float[Tensor, "n_pos d_model"]
    """What attention writes if all sources are zero: biases alone."""
    resid_pre: Float[Tensor, "n_pos d_model"]
    """The residual stream that attention reads, before the norm."""
    rotation: tuple[Float[Tensor, "n_pos d_rotated"], Float[Tensor, "n_pos d_rotated"]] | None
    """Cosine and sine by which queries and keys are rotated at each position; None without rotary embeddings."""
    active: Active
    written: tuple[Written, ...]
    """What active features write to this layer's MLP output. The features of this layer come last, after those of all
    lower layers for a cross-layer transcoder, each in the order of its `Active`."""
    error: Float[Tensor, "n_pos d_model"]
    """The MLP's output minus the transcoder's; 0 at tokens where the two were not compared."""
    mlp_bias: Float[Tensor, "n_pos d_model"]
    """What the transcoder writes when no feature is active and its input is zero."""
    skip: Float[Tensor, "d_model d_model"] | None
    """The bypass, from the input of the MLP's norm (divided by its scale) to the output (times its scale)."""
    read_scale: Float[Tensor, " n_pos"]
    """1 over the scale of the norm through which features read; 1 where they read before the norm."""
    write_scale: Float[Tensor, " n_pos"]
    """1 over the scale of the norm through which features write; 1 where they write after the norm."""
    attention_write_scale: Float[Tensor, " n_pos"]
    """1 over the scale of the norm after the attention, by which `pattern` is divided; 1 where there is none."""


@dataclass(frozen=True)
class Frozen:
    """A model frozen on one sequence.

    Memory: the decoder rows of all features that are active somewhere (for a cross-layer transcoder, for each layer
    that it writes to), and n_heads · n_pos² for each layer.
    """

    tokens: Int64[Tensor, " n_pos"]
    embedding: Float[Tensor, "n_pos d_model"]
    """What the tokens write at the bottom of the residual stream."""
    position_embedding: Float[Tensor, "n_pos d_model"] | None
    layers: tuple[FrozenLayer, ...]
    final_scale: Float[Tensor, " n_pos"]
    """1 over the final norm's scale."""
    final: Float[Tensor, "n_pos d_model"]
    """The input of the final norm."""

    @property
    def n_pos(self) -> int:
        """Number of tokens of the text."""
        return len(self.tokens)

    @property
    def n_active(self) -> int:
        """Number of active features at all tokens of all layers."""
        return sum(len(layer.active.feature) for layer in self.layers)

    @cached_property
    def first_active(self) -> list[int]:
        """Index at which each layer begins in the list of all active features, layer by layer, with one more entry at
        the end."""
        firsts = [0]
        for layer in self.layers:
            firsts.append(firsts[-1] + len(layer.active.feature))
        return firsts


@torch.no_grad()
def freeze(
    linear: LinearModel,
    transcoder: Callable[[int], Transcoder],
    tokens: Integer[Tensor, " n_pos"],
    parted: Sequence[int] | None = None,
    *,
    keep_decoders: bool = False,
    seen: Seen | None = None,
) -> Frozen:
    """Run the model on a sequence and freeze it there. `transcoder` gives a layer's, asked for once, in order; of
    autoencoders it is asked for none, since MLPs stay whole: all that one writes is its error. `seen` is what
    `read_streams_of` gave for the sequence, if it was run before.

    For the first `parted` tokens (all if None), each layer's MLP output is split into features and an error; readings
    depend on no other tokens than `read_until` says. The model must return its attention patterns:
    `model.set_attn_implementation("eager")`. With `keep_decoders`, the result refers to
    whole decoders instead of copies of their active rows; this saves memory if all transcoders are in memory anyway.

    Raises:
        ValueError: the model does not return its attention patterns, or its streams are not finite.
    """
    seen = read_streams(linear, tokens) if seen is None else seen
    parted = [len(tokens)] * linear.n_layers if parted is None else parted
    below: list[tuple[FrozenLayer, Transcoder]] = []
    for layer in range(linear.n_layers):
        coder = no_features(linear.final.weight) if linear.hooks.rebuilds else transcoder(layer)
        frozen = _freeze_layer(linear, coder, below, seen, parted[layer], keep_decoders)
        below.append((frozen, _writing_later(coder)))
    embedding, final = seen["embedding"], seen["final"]
    W_pos = linear.family.W_pos(linear.model)
    return Frozen(
        tokens=tokens.long(),
        embedding=embedding,
        position_embedding=None if W_pos is None else W_pos[: len(tokens)].float(),
        layers=tuple(layer for layer, _ in below),
        final_scale=inverse_scale(linear.final, final),
        final=final,
    )


def _freeze_layer(
    linear: LinearModel,
    coder: Transcoder,
    below: list[tuple[FrozenLayer, Transcoder]],
    seen: Seen,
    parted: int,
    keep_decoders: bool,
) -> FrozenLayer:
    layer = len(below)
    pattern, values, attention_bias = _freeze_attention(linear, layer, seen)
    mlp, x, y = linear.mlp[layer], seen["x", layer], seen["y", layer]
    n_pos = len(x)
    active = active_features(coder, x[:parted])
    active = active._replace(first=active.first + active.first[-1:] * (n_pos - parted))
    write_scale = torch.ones(n_pos, device=x.device)
    if mlp.write is not None:
        write_scale = inverse_scale(mlp.write, seen["mlp_out", layer])

    weight = None if mlp.write is None else mlp.write.weight
    reconstruction = coder.b_dec.expand(n_pos, -1).clone()
    written: list[Written] = []
    for source, W in _decoders_here(coder, below):
        its = active if source == layer else below[source][0].active
        rows, place = decoders(its, W, whole=keep_decoders and source == layer)
        add_written(Written(rows, place, its.activation, None), its.position, reconstruction)
        written.append(Written(rows, place, its.activation * write_scale[its.position], weight))
    if coder.W_skip is not None:
        reconstruction += x @ coder.W_skip.T
    apart = (torch.arange(n_pos, device=x.device) < parted)[:, None]
    to_stream = write_scale[:, None] if weight is None else write_scale[:, None] * weight
    skip, read_scale, constant = _reading(linear, layer, coder, seen)
    return FrozenLayer(
        pattern=pattern,
        values=values,
        attention_bias=attention_bias,
        resid_pre=seen["resid_pre", layer],
        rotation=(seen["cos", layer], seen["sin", layer]) if ("cos", layer) in seen else None,
        active=active,
        written=tuple(written),
        error=(y - reconstruction) * apart * to_stream,
        mlp_bias=(coder.b_dec + constant) * to_stream,
        skip=skip if skip is None or weight is None else skip * weight[:, None],
        read_scale=read_scale,
        write_scale=write_scale,
        attention_write_scale=_attention_write_scale(linear, layer, seen),
    )


def _attention_write_scale(linear: LinearModel, layer: int, seen: Seen) -> Float[Tensor, " n_pos"]:
    write = linear.attention[layer].write
    if write is None:
        return torch.ones(len(seen["resid_pre", layer]), device=seen["resid_pre", layer].device)
    return inverse_scale(write, seen["attention_out", layer])


def _decoders_here(
    coder: Transcoder, below: list[tuple[FrozenLayer, Transcoder]]
) -> Iterator[tuple[int, Float[Tensor, "d_transcoder d_model"]]]:
    """The decoders that write to a layer, by the layer of their features; its own comes last, after those of lower
    layers."""
    for source, (_, its) in enumerate(below):
        if its.W_dec_later is not None:
            yield source, its.W_dec_later[:, len(below) - source - 1]
    yield len(below), coder.W_dec


def _freeze_attention(
    linear: LinearModel, layer: int, seen: Seen
) -> tuple[Float[Tensor, "n_heads n_pos n_pos"], Float[Tensor, "n_pos n_heads d_head"], Float[Tensor, "n_pos d_model"]]:
    weights, resid, pattern = linear.attention[layer], seen["resid_pre", layer], seen["pattern", layer]
    n_heads, n_kv_heads = weights.W_O.shape[0], weights.W_V.shape[0]
    read = inverse_scale(weights.read, resid)
    values = torch.einsum("sd,ked->ske", resid * read[:, None], weights.W_V) + weights.value_bias
    bias = weights.output_bias.repeat(len(resid), 1)
    if weights.value_bias.any():
        of_heads = weights.value_bias.repeat_interleave(n_heads // n_kv_heads, 0)
        bias += pattern.sum(2).T @ torch.einsum("he,hed->hd", of_heads, weights.W_O)
    pattern = pattern * read
    if weights.write is not None:
        write = inverse_scale(weights.write, seen["attention_out", layer])
        pattern, bias = pattern * write[:, None], bias * write[:, None]
    return pattern, values.repeat_interleave(n_heads // n_kv_heads, 1) / read[:, None, None], bias


def _reading(
    linear: LinearModel, layer: int, coder: Transcoder, seen: Seen
) -> tuple[Float[Tensor, "d_model d_model"] | None, Float[Tensor, " n_pos"], Tensor]:
    """The bypass as it reads the residual stream, 1 over the scale it reads through, and what it writes at zero."""
    read, resid = linear.mlp[layer].read, seen["resid_mid", layer]
    constant = torch.zeros_like(coder.b_dec)
    if linear.mlp_hooks.feature_input == "mlp_in" and read.bias is not None and coder.W_skip is not None:
        constant = coder.W_skip @ read.bias
    scale = torch.ones(len(resid), device=resid.device)
    if linear.hooks.behind_norm:
        scale = inverse_scale(read, resid)
    return None if coder.W_skip is None else reading(linear, layer, coder.W_skip), scale, constant


def _writing_later(coder: Transcoder) -> Transcoder:
    """The part of a transcoder that is needed after its layer is done: nothing, unless it is cross-layer."""
    if coder.W_dec_later is not None:
        return coder
    nothing = coder.W_dec.new_zeros(0, coder.W_dec.shape[1])  # an empty slice would keep the whole array in memory
    return Transcoder(nothing, coder.b_enc.new_zeros(0), nothing, coder.b_dec.clone(), coder.activation, k=coder.k)


def inverse_scale(norm: Norm, x: Float[Tensor, "n_pos d_model"]) -> Float[Tensor, " n_pos"]:
    """The factor by which a norm scales each position: 1 / sqrt(mean((x − mean)²) + eps), for RMSNorm without the mean;
    1 where it does not divide."""
    if not norm.divides:
        return torch.ones(len(x), device=x.device)
    if norm.centred:
        x = x - x.mean(-1, keepdim=True)
    return torch.rsqrt(x.square().mean(-1) + norm.eps)
