"""The loss of a transcoder on a batch and its gradients, in explicit form.

The loss is the unexplained share of the outputs' variance, plus a penalty (ReLU: L1; JumpReLU: L0). All five products
of a dense step (encode, decode, and backward to activations, encoder and decoder) are implemented for any activation
and device. TopK on a CPU needs only the first: the others are sums over the few active features.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from interp.kernels.activations import compress_top
from interp.kernels.entries import by_feature
from interp.kernels.training import add_decoded, sum_by_feature
from interp.precision import wide
from interp.training.settings import TrainingSettings
from interp.transcoder import activate

TOKENS_PER_PRODUCT = 256
"""Tokens whose pre-activations are in memory at a time on a CPU: those of 2,048 features stay in its cache."""

TOKENS_PER_PRODUCT_GPU = 8192

BANDWIDTH = 0.05
"""JumpReLU: width of the rectangle that replaces the step function's derivative."""

AUXILIARY_WEIGHT = 1 / 32
"""Weight of the auxiliary loss (Gao et al. 2024)."""


@dataclass(frozen=True)
class Parameters:
    """The parameters that are optimised, in units in which inputs and outputs are centred and have mean square 1."""

    W_enc: Float[Tensor, "d_transcoder d_model"]
    b_enc: Float[Tensor, " d_transcoder"]
    W_dec: Float[Tensor, "d_transcoder d_model"]
    b_dec: Float[Tensor, " d_model"]
    W_skip: Float[Tensor, "d_model d_model"] | None = None
    log_threshold: Float[Tensor, " d_transcoder"] | None = None

    def named(self) -> dict[str, Tensor]:
        """The parameters that are not None, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def empty(self) -> "Parameters":
        """Tensors of the same shapes, for gradients."""
        return Parameters(**{name: torch.empty_like(value) for name, value in self.named().items()})


class Outcome(NamedTuple):
    """Figures of one batch."""

    unexplained: float
    """Share of the outputs' variance that is not explained."""
    penalty: float
    n_tokens: Integer[Tensor, " d_transcoder"]
    """Tokens of the batch at which each feature is active."""
    residual: Float[Tensor, "n d_model"]
    """Reconstruction minus output."""

    @property
    def n_active(self) -> int:
        """Active features of all tokens together."""
        return int(self.n_tokens.sum())

    @property
    def fired(self) -> Bool[Tensor, " d_transcoder"]:
        """Whether each feature was active at all."""
        return self.n_tokens > 0


def loss_and_gradients(
    p: Parameters,
    x: Float[Tensor, "n d_model"],
    y: Float[Tensor, "n d_model"],
    settings: TrainingSettings,
    into: Parameters,
) -> Outcome:
    """The loss on a batch; its gradients are written to `into`. Memory: two arrays like `x`, and for TopK on a CPU 28
    bytes for each active feature, otherwise three blocks of pre-activations."""
    residual = p.b_dec - y if p.W_skip is None else torch.addmm(p.b_dec, x, p.W_skip.T).sub_(y)
    total = float((y - y.mean(0)).square().sum(dtype=wide(y.device)))
    sparse = settings.activation == "topk" and x.device.type == "cpu"
    outcome = (_sparse if sparse else _dense)(p, x, residual, settings, (into, total))
    torch.sum(residual, 0, out=into.b_dec)
    into.b_dec.mul_(2 / total)
    if into.W_skip is not None:
        torch.mm(residual.T, x, out=into.W_skip).mul_(2 / total)
    return outcome


def _sparse(
    p: Parameters, x: Tensor, residual: Tensor, settings: TrainingSettings, goal: tuple[Parameters, float]
) -> Outcome:
    into, total = goal
    (n, m), k = (len(x), len(p.W_enc)), min(settings.k, len(p.W_enc))
    bias, found = p.b_enc.numpy(), 0
    room = n * k + 1
    token, feature, value = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.float32)
    inputs, encoder = x.to(settings.torch_dtype), p.W_enc.to(settings.torch_dtype)
    products = inputs.new_empty(min(n, TOKENS_PER_PRODUCT), m)
    for low in range(0, n, TOKENS_PER_PRODUCT):
        rows = inputs[low : low + TOKENS_PER_PRODUCT]
        out = torch.mm(rows, encoder.T, out=products[: len(rows)]).float()
        position = np.arange(low, low + len(rows), dtype=np.int32)
        found += int(compress_top(out.numpy(), bias, k, position, token[found:], feature[found:], value[found:]))
    token, feature, value = token[:found], feature[:found], value[:found]
    back = np.empty(found, np.float32)
    squares = float(add_decoded(token, feature, value, p.W_dec.numpy(), residual.numpy(), back))
    token_by, order = np.empty(found, np.int32), np.empty(found, np.int32)
    indptr = by_feature(token, feature, np.arange(found, dtype=np.int32), m, token_by, order)
    scale = np.float32(2 / total)
    back *= scale
    back, value = back[order], value[order] * scale
    sum_by_feature(indptr, token_by, value, residual.numpy(), into.W_dec.numpy())
    sum_by_feature(indptr, token_by, back, x.numpy(), into.W_enc.numpy())
    into.b_enc.copy_(torch.from_numpy(np.bincount(feature[order], back, m)))
    return Outcome(squares / total, 0.0, torch.from_numpy(np.diff(indptr)), residual)


def _dense(
    p: Parameters, x: Tensor, residual: Tensor, settings: TrainingSettings, goal: tuple[Parameters, float]
) -> Outcome:
    into, total = goal
    for tensor in into.named().values():
        tensor.zero_()
    n, kind = len(x), settings.activation
    threshold = None if p.log_threshold is None else p.log_threshold.exp()
    n_tokens = torch.zeros(len(p.W_enc), dtype=torch.int64, device=x.device)
    squares, penalty = (torch.zeros((), dtype=wide(x.device), device=x.device) for _ in range(2))
    step = TOKENS_PER_PRODUCT if x.device.type == "cpu" else TOKENS_PER_PRODUCT_GPU
    for low in range(0, n, step):
        rows, error = x[low : low + step], residual[low : low + step]
        pre = torch.addmm(p.b_enc, rows, p.W_enc.T)
        a = activate(pre, kind, threshold, settings.k)
        on = a > 0
        error.addmm_(a, p.W_dec)
        squares += error.square().sum()
        n_tokens += on.sum(0)
        scaled = error * (2 / total)
        into.W_dec.addmm_(a.T, scaled)
        back = scaled @ p.W_dec.T
        if kind == "relu":
            back += settings.sparsity / n
            penalty += a.sum() * (settings.sparsity / n)
        if threshold is not None:
            assert into.log_threshold is not None
            near = (pre - threshold).abs_() < BANDWIDTH / 2
            steps = (back * threshold).add_(settings.sparsity / n).mul_(near)
            into.log_threshold.sub_(steps.sum(0) * threshold / BANDWIDTH)
            penalty += on.sum() * (settings.sparsity / n)
        back *= on
        into.W_enc.addmm_(back.T, rows)
        into.b_enc.add_(back.sum(0))
    return Outcome(float(squares) / total, float(penalty), n_tokens, residual)


def add_auxiliary(
    p: Parameters,
    x: Float[Tensor, "n d_model"],
    residual: Float[Tensor, "n d_model"],
    dead: Bool[Tensor, " d_transcoder"],
    into: Parameters,
) -> float:
    """The auxiliary loss: how badly the dead features, as a TopK of half the model's width, explain the residual of the
    others. Its gradients are added to `into` (Gao et al. 2024)."""
    at = dead.nonzero().squeeze(1)
    left = float(residual.square().sum(dtype=wide(x.device)))
    if len(at) == 0 or not left > 0:
        return 0.0
    encoder, decoder = p.W_enc[at], p.W_dec[at]
    a = activate(torch.addmm(p.b_enc[at], x, encoder.T), "topk", None, x.shape[1] // 2 or 1)
    error = torch.addmm(residual, a, decoder)
    scaled = error * (2 * AUXILIARY_WEIGHT / left)
    back = (scaled @ decoder.T).mul_(a > 0)
    into.W_dec.index_add_(0, at, a.T @ scaled)
    into.W_enc.index_add_(0, at, back.T @ x)
    into.b_enc.index_add_(0, at, back.sum(0))
    return AUXILIARY_WEIGHT * float(error.square().sum(dtype=wide(x.device))) / left
