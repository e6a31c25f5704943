"""Encoders, decoders and the unembedding in the coordinates of the residual stream.

Projections compare directions of the residual stream, but a transcoder may read after a norm and write before one.
Dividing by a norm's scale does not change a direction; its weight and its centring do.
"""

from jaxtyping import Float32
from torch import Tensor


def fold_norm(
    W: Float32[Tensor, "n d_model"], weight: Float32[Tensor, " d_model"] | None, centred: bool
) -> Float32[Tensor, "n d_model"]:
    """Rows that read a norm's output, as directions in the norm's input.

    `weight` is the norm's weight, or None if the reading point is before it; `centred` if the norm subtracts the mean
    over d_model.
    """
    if weight is not None:
        W = W * weight
    return W - W.mean(1, keepdim=True) if centred else W
