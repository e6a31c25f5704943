"""A transcoder: the sparse replacement of one MLP (docs/design.md, "Transcoders")."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

ActivationName = Literal["relu", "jumprelu", "topk"]


@dataclass(frozen=True)
class Transcoder:
    """One layer's transcoder: `a = act(W_enc x + b_enc)`, `mlp_out ≈ W_decᵀ a + b_dec (+ W_skip x)`.

    Both weight matrices have one row for each feature, whatever the file format. The features of a cross-layer
    transcoder also write to the MLP outputs of later layers (Ameisen et al. 2025): `mlp_out` of a layer is then `b_dec`
    plus what the features of this layer and of all lower layers write to it.
    """

    W_enc: Float[Tensor, "d_transcoder d_model"]
    b_enc: Float[Tensor, " d_transcoder"]
    W_dec: Float[Tensor, "d_transcoder d_model"]
    b_dec: Float[Tensor, " d_model"]
    activation: ActivationName
    threshold: Float[Tensor, " d_transcoder"] | None = None
    """JumpReLU: a pre-activation at or below it counts as zero."""
    k: int | None = None
    """TopK: largest number of active features at a token."""
    W_skip: Float[Tensor, "d_model d_model"] | None = None
    """Linear bypass, `y += W_skip x`."""
    subtracted: Float[Tensor, " d_model"] | None = None
    """What the release subtracts from the input; already included in `b_enc` (`b_enc − W_enc · subtracted`)."""
    W_dec_later: Float[Tensor, "d_transcoder n_later d_model"] | None = None
    """Cross-layer: what features write to the MLP outputs of the `n_later` layers above, the next layer first."""

    @property
    def d_transcoder(self) -> int:
        """Number of features."""
        return self.W_enc.shape[0]

    @property
    def n_bytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, Tensor))

    def encode(self, x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_transcoder"]:
        """The activations of every feature at every token."""
        return activate(torch.addmm(self.b_enc, x, self.W_enc.T), self.activation, self.threshold, self.k)

    def decode(self, a: Float[Tensor, "n d_transcoder"], x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        """The contribution of the activations `a`, computed from `x`, to the output of their own layer's MLP."""
        y = torch.addmm(self.b_dec, a, self.W_dec)
        return y if self.W_skip is None else y + x @ self.W_skip.T

    def without_subtraction(self) -> "Transcoder":
        """The same transcoder with the encoder's bias as if nothing were subtracted from its input."""
        if self.subtracted is None:
            return self
        return replace(self, b_enc=self.b_enc + self.W_enc @ self.subtracted, subtracted=None)

    def to(self, dtype: torch.dtype) -> "Transcoder":
        """This transcoder with every tensor in `dtype`."""
        return self._each(lambda tensor: tensor.to(dtype))

    def on(self, device: str) -> "Transcoder":
        """This transcoder with every tensor on `device`."""
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Transcoder":
        tensors = {name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)


def no_features(like: Float[Tensor, " d_model"]) -> Transcoder:
    """A transcoder without features, of a vector's width, type and device: all that the MLP writes is its error."""
    rows = like.new_zeros(0, len(like))
    return Transcoder(rows, like.new_zeros(0), rows, torch.zeros_like(like), "relu")


def activate(
    pre: Float[Tensor, "n d_transcoder"],
    activation: ActivationName,
    threshold: Float[Tensor, " d_transcoder"] | None,
    k: int | None,
) -> Float[Tensor, "n d_transcoder"]:
    """Apply the activation function to pre-activations. TopK also drops what is not positive."""
    if activation == "relu":
        return pre.relu()
    if activation == "jumprelu":
        assert threshold is not None
        # A negative threshold would let negative activations through, which no release intends.
        return torch.where(pre > threshold.clamp(min=0), pre, 0)
    assert k is not None
    values, indices = pre.relu().topk(min(k, pre.shape[1]), dim=1)
    return torch.zeros_like(pre).scatter_(1, indices, values)
