"""Train a transcoder for one MLP: ReLU, JumpReLU or TopK, optionally with a linear skip.

The recipe is the field's usual one: TopK with an auxiliary loss that lets dead features explain the
error (Gao et al., "Scaling and evaluating sparse autoencoders", 2024), ReLU with an L1 penalty, JumpReLU
with an L0 penalty through a straight-through estimator (Rajamanoharan et al., "Jumping ahead", 2024).
Decoder rows are kept at unit norm. Features start as data points: row i of the encoder is the input at
some token, row i of the decoder the MLP's output there, which leaves few features dead.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Float
from torch import Tensor

from interp.transcoder import ActivationName, Transcoder, activate


@dataclass(frozen=True)
class TrainingSettings:
    """How transcoders are trained."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    d_transcoder: Annotated[int, Gt(0), Le(10_000_000)] = 1024
    """Features a layer."""
    activation: ActivationName = "topk"
    """relu, jumprelu or topk."""
    k: Annotated[int, Gt(0)] = 32
    """TopK: active features a token."""
    sparsity: Annotated[float, Ge(0)] = 3e-3
    """ReLU: weight of the L1 penalty; JumpReLU: weight of the L0 penalty. Unused by TopK."""
    skip: bool = False
    """Add a linear skip connection from the MLP's input to its output."""
    n_steps: Annotated[int, Gt(0)] = 1000
    """Optimiser steps."""
    batch_tokens: Annotated[int, Gt(0)] = 4096
    """Tokens a step."""
    learning_rate: Annotated[float, Gt(0)] = 2e-3
    """Peak of Adam's learning rate: warm-up over 5% of the steps, then linear decay over the last half."""
    dead_after_tokens: Annotated[int, Gt(0)] = 200_000
    """TopK: a feature that has not fired for so many tokens joins the auxiliary loss."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Seeds the starting features and the order of the data."""


class Step(NamedTuple):
    """Figures of one optimiser step."""

    step: int
    loss: float
    explained_variance: float
    l0: float
    dead_share: float


class _Parameters(torch.nn.Module):
    """What is optimised, in units where inputs and outputs have mean square 1."""

    def __init__(self, x: Tensor, y: Tensor, settings: TrainingSettings) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(settings.seed)
        start = torch.randint(len(x), (settings.d_transcoder,), generator=generator)
        centre = x.mean(0)
        encoder = torch.nn.functional.normalize(x[start] - centre, dim=1)
        encoder += 0.1 * torch.randn(encoder.shape, generator=generator) / math.sqrt(x.shape[1])  # tells twins apart
        self.W_enc = torch.nn.Parameter(encoder)
        self.b_enc = torch.nn.Parameter(-(encoder @ centre))
        noise = 0.1 * torch.randn(settings.d_transcoder, y.shape[1], generator=generator) / math.sqrt(y.shape[1])
        decoder = torch.nn.functional.normalize(y[start] - y.mean(0), dim=1) + noise
        self.W_dec = torch.nn.Parameter(torch.nn.functional.normalize(decoder, dim=1))
        self.b_dec = torch.nn.Parameter(y.mean(0))
        self.W_skip = torch.nn.Parameter(torch.zeros(y.shape[1], x.shape[1])) if settings.skip else None
        jump = settings.activation == "jumprelu"
        self.log_threshold = torch.nn.Parameter(torch.full((settings.d_transcoder,), math.log(0.1))) if jump else None


class _JumpReLU(torch.autograd.Function):
    """JumpReLU and its step function, with a rectangle kernel as pseudo-derivative for the threshold."""

    BANDWIDTH = 0.05

    @staticmethod
    def forward(ctx, pre: Tensor, threshold: Tensor):
        ctx.save_for_backward(pre, threshold)
        on = (pre > threshold).to(pre.dtype)
        return pre * on, on

    @staticmethod
    def backward(ctx, grad_a: Tensor, grad_on: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < _JumpReLU.BANDWIDTH / 2).to(pre.dtype) / _JumpReLU.BANDWIDTH
        grad_threshold = (-near * (grad_a * threshold + grad_on)).sum(0)
        return grad_a * (pre > threshold), grad_threshold


class Trainer:
    """Trains one transcoder, a batch at a time; `state` and `restore` carry it over a restart."""

    def __init__(
        self, x: Float[Tensor, "n d_model"], y: Float[Tensor, "n d_model"], settings: TrainingSettings
    ) -> None:
        """Start from a first batch of inputs and MLP outputs, which also fixes their scales."""
        self.settings = settings
        self.x_scale = float(x.square().mean().sqrt())
        self.y_scale = float((y - y.mean(0)).square().mean().sqrt())
        if not (self.x_scale > 0 and self.y_scale > 0):
            raise ValueError("the MLP's inputs or outputs do not vary over the first batch: nothing to train on")
        self.parameters = _Parameters(x / self.x_scale, y / self.y_scale, settings)
        self.optimizer = torch.optim.Adam(self.parameters.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
        self.tokens_since_active = torch.zeros(settings.d_transcoder)
        self.step_number = 0

    def step(self, x: Float[Tensor, "n d_model"], y: Float[Tensor, "n d_model"]) -> Step:
        """One optimiser step on a batch."""
        p, settings = self.parameters, self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(self.step_number / settings.n_steps)
        x, y = x / self.x_scale, y / self.y_scale
        pre = torch.addmm(p.b_enc, x, p.W_enc.T)
        penalty = torch.zeros(())
        if settings.activation == "jumprelu":
            assert p.log_threshold is not None
            a, on = _JumpReLU.apply(pre, p.log_threshold.exp())  # pyright: ignore[reportGeneralTypeIssues]
            penalty = settings.sparsity * on.sum(1).mean()
        else:
            a = activate(pre, settings.activation, None, settings.k)
            if settings.activation == "relu":
                penalty = settings.sparsity * a.sum(1).mean()
        error = y - torch.addmm(p.b_dec, a, p.W_dec)
        if p.W_skip is not None:
            error = error - x @ p.W_skip.T
        variance = (y - y.mean(0)).square().sum(1).mean()
        unexplained = error.square().sum(1).mean() / variance
        loss = unexplained + penalty
        if settings.activation == "topk":
            loss = loss + self._auxiliary_loss(pre, error.detach()) / 32
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(p.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            p.W_dec.copy_(torch.nn.functional.normalize(p.W_dec, dim=1))
            fired = (a > 0).any(0)
            self.tokens_since_active = torch.where(fired, 0.0, self.tokens_since_active + len(x))
        self.step_number += 1
        dead = (self.tokens_since_active >= settings.dead_after_tokens).float().mean()
        l0 = (a > 0).float().sum(1).mean()
        return Step(self.step_number, loss.item(), 1 - unexplained.item(), l0.item(), dead.item())

    def _auxiliary_loss(self, pre: Tensor, error: Tensor) -> Tensor:
        """How badly the dead features, as a TopK of their own, explain what the others left."""
        dead = self.tokens_since_active >= self.settings.dead_after_tokens
        if not dead.any():
            return torch.zeros(())
        a = activate(pre[:, dead], "topk", None, pre.shape[1] // 2)
        residue = (error - a @ self.parameters.W_dec[dead]).square().sum(1).mean()
        return torch.nan_to_num(residue / error.square().sum(1).mean())

    @torch.no_grad()
    def transcoder(self) -> Transcoder:
        """The transcoder in the units of the model, decoder rows of norm 1."""
        p, x_scale, y_scale = self.parameters, self.x_scale, self.y_scale
        return Transcoder(
            W_enc=p.W_enc.detach() * (y_scale / x_scale),
            b_enc=p.b_enc.detach() * y_scale,
            W_dec=p.W_dec.detach().clone(),
            b_dec=p.b_dec.detach() * y_scale,
            activation=self.settings.activation,
            threshold=None if p.log_threshold is None else p.log_threshold.exp() * y_scale,
            k=self.settings.k if self.settings.activation == "topk" else None,
            W_skip=None if p.W_skip is None else p.W_skip.detach() * (y_scale / x_scale),
        )

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on."""
        state = {f"parameters.{name}": value.detach() for name, value in self.parameters.named_parameters()}
        for name, value in self.parameters.named_parameters():
            for moment, tensor in self.optimizer.state[value].items():
                state[f"adam.{name}.{moment}"] = tensor
        state["tokens_since_active"] = self.tokens_since_active
        state["step_number"] = torch.tensor(self.step_number)
        return {name: tensor.contiguous().clone() for name, tensor in state.items()}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state` of a trainer that was made with the same first batch and settings."""
        for name, value in self.parameters.named_parameters():
            value.copy_(state[f"parameters.{name}"])
            moments = {key.rsplit(".", 1)[1]: t for key, t in state.items() if key.startswith(f"adam.{name}.")}
            self.optimizer.state[value] = moments
        self.tokens_since_active = state["tokens_since_active"]
        self.step_number = int(state["step_number"])


def _schedule(progress: float) -> float:
    """Share of the peak learning rate after `progress` (0 to 1) of the training."""
    return min(1.0, (progress + 1e-3) / 0.05, 2 * (1 - progress))


def train(
    batch: Callable[[int], tuple[Float[Tensor, "n d_model"], Float[Tensor, "n d_model"]]],
    settings: TrainingSettings,
    on_step: Callable[[Trainer, Step], None],
    state: dict[str, Tensor] | None = None,
) -> Transcoder:
    """Train on `batch(step)`, which gives the inputs and MLP outputs of that step, the same every time.

    `on_step` sees every step; `state` is an earlier `Trainer.state()` to go on from. The result does not
    depend on where a training was interrupted.
    """
    trainer = Trainer(*batch(0), settings)
    if state is not None:
        trainer.restore(state)
    while trainer.step_number < settings.n_steps:
        on_step(trainer, trainer.step(*batch(trainer.step_number)))
    return trainer.transcoder()
