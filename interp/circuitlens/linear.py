"""The weights of a model that matter once it is frozen on a sequence (`interp.circuitlens.frozen`)."""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.capture import Hooks
from interp.families import Family, Norm
from interp.streamed_layers import is_streamed
from interp.weightlens.coordinates import fold_norm

Reads = Literal["mlp", "block", "attention"]

WHOLE_MLPS = Hooks("mlp_in", "mlp_out")


class AttentionWeights(NamedTuple):
    """One layer's attention as a linear map, with norms' weights and centring folded in."""

    W_V: Float[Tensor, "n_kv_heads d_head d_model"]
    """From the residual stream, divided by the norm's scale, to values."""
    value_bias: Float[Tensor, "n_kv_heads d_head"]
    """The constant part of the values: biases of the projection and of the norm before it."""
    W_O: Float[Tensor, "n_heads d_head d_model"]
    """From mixed values to the residual stream (times the scale of the norm there, where there is one)."""
    output_bias: Float[Tensor, " d_model"]
    read: Norm
    write: Norm | None


class MlpWeights(NamedTuple):
    """The norms around one layer's MLP, between the residual stream and the transcoder."""

    read: Norm
    write: Norm | None
    """The norm between the transcoder's output and the residual stream, or None."""


@dataclass(frozen=True)
class LinearModel:
    """The weights of a model that matter when it is frozen; the same for every sequence.

    Memory: a copy of the attention's values and outputs in float32.
    """

    model: nn.Module
    family: Family
    hooks: Hooks
    """The places that features read and reconstruct."""
    attention: tuple[AttentionWeights, ...]
    mlp: tuple[MlpWeights, ...]
    final: Norm
    parallel: bool
    """Attention and MLP both read the input of the block (parallel blocks)."""

    @property
    def mlp_hooks(self) -> Hooks:
        """The places between which MLPs are split into features: those of the transcoders. With autoencoders, MLPs are
        not split."""
        return WHOLE_MLPS if self.hooks.rebuilds else self.hooks

    @property
    def reads(self) -> Reads:
        """The point of its layer at which a target reads (see `Targets.layer`): the residual stream between attention
        and MLP, the stream before the block, or the output of attention alone."""
        if self.hooks.feature_input == "attn_out":
            return "attention"
        return "block" if self.parallel or self.hooks.rebuilds else "mlp"

    @property
    def reads_above(self) -> int:
        """How many layers above their own the features read: the stream after a block is the input of the next block,
        or of the final norm."""
        return 1 if self.hooks.feature_input == "resid_post" else 0

    @property
    def n_layers(self) -> int:
        """Number of layers of the model."""
        return len(self.attention)

    @property
    def n_heads(self) -> int:
        """Number of attention heads of a layer."""
        return self.attention[0].W_O.shape[0]


def rounded(linear: LinearModel) -> LinearModel:
    """The model with attention's values and outputs in bfloat16, for sweeps only.

    Gradients are rounded where they meet these weights and frozen patterns. Products are summed in float32, and so are
    gradients over layers and contributions. Memory: half of what the attention's weights take in float32.
    """
    attention = (
        one._replace(W_V=one.W_V.to(torch.bfloat16), W_O=one.W_O.to(torch.bfloat16)) for one in linear.attention
    )
    return replace(linear, attention=tuple(attention))


def linear_model(model: nn.Module, family: Family, hooks: Hooks) -> LinearModel:
    """Fold norms into the attention's weights, layer by layer.

    Raises:
        ValueError: layers of the model are in host memory because they do not fit on its device.
    """
    if is_streamed(model):
        raise ValueError(
            "attribution (circuitlens, graphs, predictions) needs the weights of all layers at once, and layers of "
            "this model are streamed from host memory, since the GPU has no room for them; set engine.device=cpu"
        )
    layers = range(len(family.block_modules(model)))
    whole_output = hooks.rebuilds or hooks.feature_output == "mlp_out"
    return LinearModel(
        model=model,
        family=family,
        hooks=hooks,
        attention=tuple(_attention_weights(model, family, layer) for layer in layers),
        mlp=tuple(
            MlpWeights(
                family.read_norm(model, layer),
                family.write_norm(model, layer) if whole_output else None,
            )
            for layer in layers
        ),
        final=family.unembedding_norm(model),
        parallel=family.parallel(model),
    )


def _attention_weights(model: nn.Module, family: Family, layer: int) -> AttentionWeights:
    read, write = family.attention_read_norm(model, layer), family.attention_write_norm(model, layer)
    W_V, W_O = family.W_V(model, layer).float(), family.W_O(model, layer).transpose(1, 2).float()
    b_V, b_O = family.b_V(model, layer), family.b_O(model, layer)
    b_V = W_V.new_zeros(W_V.shape[:2]) if b_V is None else b_V.float()
    b_O = W_O.new_zeros(W_O.shape[2]) if b_O is None else b_O.float()
    if read.bias is not None:
        b_V = b_V + W_V @ read.bias
    if write is not None:
        W_O, b_O = W_O * write.weight, b_O * write.weight
    folded = fold_norm(W_V.flatten(0, 1), read.weight, read.centred).view(W_V.shape)
    by_dimension = W_O.permute(2, 0, 1).contiguous()  # in the order in which sweeps multiply by it
    return AttentionWeights(folded.contiguous(), b_V, by_dimension.permute(1, 2, 0), b_O, read, write)


def reading(linear: LinearModel, layer: int, W: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
    """Rows that read at the transcoders' input, as directions of the residual stream (times the norm's scale)."""
    if not linear.hooks.behind_norm:
        return W
    read = linear.mlp[layer].read
    return fold_norm(W, read.weight if linear.hooks.feature_input == "mlp_in" else None, read.centred)
