"""What has to be known of a model family: where the residual stream is read and written."""

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Norm:
    """A normalisation with its parameters as they act: `weight · (x − mean?) / scale + bias`."""

    weight: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"] | None
    eps: float
    centred: bool
    """LayerNorm subtracts the mean over d_model, RMSNorm does not."""

    def normalize(self, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """Divide by the scale (after centring, for a LayerNorm); no weight and no bias."""
        x = x.float()
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


@dataclass(frozen=True)
class Family:
    """One architecture, as dotted module paths from the model or from one of its blocks."""

    model_type: str
    """`config.model_type` in transformers."""
    blocks: str
    embedding: str
    unembedding: str
    final_norm: str
    mlp: str
    mlp_norm: str
    """Reads the residual stream for the MLP: its output is the MLP's input."""
    mlp_output_norm: str | None = None
    """Normalises the MLP's output before it is added to the residual stream (Gemma-2, Gemma-3)."""
    centred: bool = False
    """Norms are LayerNorms (centred) rather than RMSNorms."""
    unit_offset: bool = False
    """The norm multiplies by 1 + weight (Gemma)."""

    def block_modules(self, model: nn.Module) -> list[nn.Module]:
        return list(attrgetter(self.blocks)(model))

    def module(self, block: nn.Module, path: str) -> nn.Module:
        return attrgetter(path)(block)

    def W_E(self, model: nn.Module) -> Float[Tensor, "d_vocab d_model"]:
        return attrgetter(self.embedding)(model).weight.detach()

    def W_U(self, model: nn.Module) -> Float[Tensor, "d_vocab d_model"]:
        return attrgetter(self.unembedding)(model).weight.detach()

    def norm(self, module: Any) -> Norm:
        """The parameters of one of the family's norm modules."""
        weight = module.weight.detach().float()
        bias = getattr(module, "bias", None)
        return Norm(
            weight=1 + weight if self.unit_offset else weight,
            bias=None if bias is None else bias.detach().float(),
            eps=getattr(module, "eps", None) or module.variance_epsilon,
            centred=self.centred,
        )

    def read_norm(self, model: nn.Module, layer: int) -> Norm:
        """The norm through which the MLP of `layer` reads the residual stream."""
        return self.norm(self.module(self.block_modules(model)[layer], self.mlp_norm))

    def write_norm(self, model: nn.Module, layer: int) -> Norm | None:
        """The norm through which the MLP of `layer` writes to the residual stream, if there is one."""
        if self.mlp_output_norm is None:
            return None
        return self.norm(self.module(self.block_modules(model)[layer], self.mlp_output_norm))

    def unembedding_norm(self, model: nn.Module) -> Norm:
        """The final norm, between the residual stream and the logits."""
        return self.norm(attrgetter(self.final_norm)(model))
