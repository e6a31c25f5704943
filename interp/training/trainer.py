"""Train transcoders for MLPs: ReLU, JumpReLU or TopK, optionally with a linear skip connection.

The recipe is the usual one: TopK with an auxiliary loss in which dead features explain the error (Gao et al., "Scaling
and evaluating sparse autoencoders", 2024), ReLU with an L1 penalty, JumpReLU with an L0 penalty and a straight-through
estimator (Rajamanoharan et al., "Jumping ahead", 2024); with these two, dead features are initialised again from tokens
that are explained badly (Bricken et al., "Towards monosemanticity", 2023). Decoder rows have unit norm. Features are
initialised from data: row i of the encoder is the input at some token, row i of the decoder the MLP's output there,
which leaves few features dead. The frequency of features can be limited through their biases, as the load of experts is
balanced in mixtures (Wang et al., "Auxiliary-loss-free load balancing strategy for mixture-of-experts", 2024). Inputs
and outputs are centred and scaled by statistics of the first batch, and the saved weights include this scaling.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from interp.training.gradients import Outcome, Parameters, add_auxiliary, loss_and_gradients
from interp.training.settings import TrainingSettings
from interp.transcoder import Transcoder, activate

REVIVE_EVERY = 100
"""Steps after which dead features of ReLU and JumpReLU are initialised again, in the first half of a training."""

MAX_GRADIENT_NORM = 1.0

BIAS_STEP = 5.0
"""By how many learning rates a step lowers the bias of a feature that fires twice as often as it may, or more. Adam
alone moves it by about one, so it cannot move it back."""

GAIN_TOKENS = 1024
"""Tokens from which the initial gain is computed."""

MIN_GAIN = 0.01

MASSIVE = 30.0
"""Tokens whose output is this many times as long as the median are left out of training."""


class Step(NamedTuple):
    """Figures of one optimiser step."""

    step: int
    loss: float
    explained_variance: float
    l0: float
    dead_share: float


@dataclass(frozen=True)
class Scaling:
    """The scaling that centres a layer's inputs and outputs and gives them mean square 1."""

    x_mean: Float[Tensor, " d_model"]
    x_norm: float
    """Root mean square of the entries of centred inputs."""
    y_mean: Float[Tensor, " d_model"]
    y_norm: float

    @classmethod
    def measured(cls, x: Float[Tensor, "n d_model"], y: Float[Tensor, "n d_model"]) -> "Scaling":
        """The scaling measured on a batch.

        Raises:
            ValueError: inputs or outputs do not vary, or are not finite.
        """
        x_mean, y_mean = x.mean(0), y.mean(0)
        x_norm, y_norm = (float((z - mean).square().mean().sqrt()) for z, mean in ((x, x_mean), (y, y_mean)))
        if not (x_norm > 0 and y_norm > 0):
            raise ValueError("the MLP's inputs or outputs do not vary over the first batch: nothing to train on")
        return cls(x_mean, x_norm, y_mean, y_norm)

    def x(self, x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        """Inputs in scaled units."""
        return (x - self.x_mean).div_(self.x_norm)

    def y(self, y: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        """Outputs in scaled units."""
        return (y - self.y_mean).div_(self.y_norm)


def without_massive(
    x: Float[Tensor, "n d_model"], y: Float[Tensor, "n d_model"]
) -> tuple[Float[Tensor, "m d_model"], Float[Tensor, "m d_model"]]:
    """The tokens of a batch without those of massive outputs (Sun et al., "Massive activations in large language
    models", 2024). Some models treat one token in thousands, at any position, as others treat BOS; a few of these
    would dominate the loss."""
    norm = y.norm(dim=1)
    limit = MASSIVE * norm.median()
    ordinary = (norm <= limit) | (limit == 0)
    return (x, y) if bool(ordinary.all()) else (x[ordinary], y[ordinary])


class Trainer:
    """Trains one transcoder, a batch at a time; `state` and `resumed` allow a restart."""

    def __init__(self, parameters: Parameters, scaling: Scaling, settings: TrainingSettings) -> None:
        self.settings, self.scaling, self.parameters = settings, scaling, parameters
        tensors = list(parameters.named().values())
        self.optimizer = torch.optim.Adam(tensors, lr=settings.learning_rate, betas=(0.9, 0.99), fused=True)
        self.tokens_since_active = torch.zeros(settings.d_transcoder, device=parameters.W_enc.device)
        self.step_number = 0

    @classmethod
    def started(
        cls, x: Float[Tensor, "n d_model"], y: Float[Tensor, "n d_model"], settings: TrainingSettings
    ) -> "Trainer":
        """A new trainer. Its features are tokens of the first batch of inputs and MLP outputs, which also determines
        the scaling."""
        x, y = without_massive(x, y)
        scaling = Scaling.measured(x, y)
        x, y = scaling.x(x), scaling.y(y)
        parameters = first_parameters(x, y, settings)
        gain = _first_gain(parameters, x[:GAIN_TOKENS], y[:GAIN_TOKENS], settings)
        return cls(parameters, replace(scaling, x_norm=scaling.x_norm / gain), settings)

    @torch.no_grad()
    def step(self, x: Float[Tensor, "n d_model"], y: Float[Tensor, "n d_model"]) -> Step:
        """One optimiser step on a batch."""
        p, settings = self.parameters, self.settings
        x, y = without_massive(x, y)
        x, y = self.scaling.x(x), self.scaling.y(y)
        gradients = p.empty()
        outcome = loss_and_gradients(p, x, y, settings, gradients)
        loss = outcome.unexplained + outcome.penalty
        if settings.activation == "topk":
            loss += add_auxiliary(p, x, outcome.residual, self.dead, gradients)
        self._descend(gradients)
        if settings.max_frequency is not None:
            excess = outcome.n_tokens / (settings.max_frequency * len(x)) - 1
            p.b_enc.sub_(excess.clamp_(0, 1), alpha=BIAS_STEP * self.optimizer.param_groups[0]["lr"])
        self.tokens_since_active += len(x)
        self.tokens_since_active[outcome.fired] = 0
        self.step_number += 1
        dead = self.dead
        dead_share = float(dead.float().mean())
        if settings.activation != "topk" and self.step_number % REVIVE_EVERY == 0:
            self._revive(x, outcome, dead)
        return Step(self.step_number, loss, 1 - outcome.unexplained, outcome.n_active / len(x), dead_share)

    @property
    def dead(self) -> Bool[Tensor, " d_transcoder"]:
        """Whether each feature has not fired for `dead_after_tokens`."""
        return self.tokens_since_active >= self.settings.dead_after_tokens

    def _descend(self, gradients: Parameters) -> None:
        p, settings = self.parameters, self.settings
        tensors = p.named()
        for name, tensor in tensors.items():
            tensor.grad = getattr(gradients, name)
        torch.nn.utils.clip_grad_norm_(tensors.values(), MAX_GRADIENT_NORM)
        self.optimizer.param_groups[0]["lr"] = settings.learning_rate * schedule(self.step_number, settings)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        p.W_dec.div_(p.W_dec.norm(dim=1, keepdim=True).clamp_(min=1e-12))

    def _revive(self, x: Tensor, outcome: Outcome, dead: Bool[Tensor, " d_transcoder"]) -> None:
        """Initialise dead features again from the tokens that are explained worst, with a fifth of the others'
        weight."""
        at = dead.nonzero().squeeze(1)
        if len(at) == 0 or 2 * self.step_number > self.settings.n_steps:
            return
        p, n = self.parameters, min(len(at), len(x))
        at = at[:n]
        worst = outcome.residual.square().sum(1).topk(n).indices
        encoder = normalize(x[worst], dim=1) * 0.2
        p.W_enc[at] = encoder
        p.b_enc[at] = 0
        p.W_dec[at] = normalize(-outcome.residual[worst], dim=1)
        for tensor in (p.W_enc, p.b_enc, p.W_dec):
            state = self.optimizer.state[tensor]
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment][at] = 0
        self.tokens_since_active[at] = 0

    @torch.no_grad()
    def transcoder(self) -> Transcoder:
        """The transcoder in the units of the model, with decoder rows of norm 1."""
        p, scaling = self.parameters, self.scaling
        gain = scaling.y_norm / scaling.x_norm
        W_enc, b_dec = p.W_enc * gain, p.b_dec * scaling.y_norm + scaling.y_mean
        W_skip = None if p.W_skip is None else p.W_skip * gain
        return Transcoder(
            W_enc=W_enc,
            b_enc=p.b_enc * scaling.y_norm - W_enc @ scaling.x_mean,
            W_dec=p.W_dec.clone(),
            b_dec=b_dec if W_skip is None else b_dec - W_skip @ scaling.x_mean,
            activation=self.settings.activation,
            threshold=None if p.log_threshold is None else p.log_threshold.exp() * scaling.y_norm,
            k=self.settings.k if self.settings.activation == "topk" else None,
            W_skip=W_skip,
        )

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, on the CPU."""
        state = {f"parameters.{name}": value for name, value in self.parameters.named().items()}
        for name, value in self.parameters.named().items():
            for moment, tensor in self.optimizer.state[value].items():
                state[f"adam.{name}.{moment}"] = tensor
        scaling = self.scaling
        state |= {"x_mean": scaling.x_mean, "y_mean": scaling.y_mean}
        state["norms"] = torch.tensor([scaling.x_norm, scaling.y_norm], dtype=torch.float64)
        state["tokens_since_active"] = self.tokens_since_active
        state["step_number"] = torch.tensor(self.step_number)
        return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}

    @classmethod
    def resumed(cls, state: dict[str, Tensor], settings: TrainingSettings, device: str = "cpu") -> "Trainer":
        """A trainer that continues from the `state` of another with the same settings."""
        x_norm, y_norm = state["norms"].tolist()
        state = {name: tensor.to(device, copy=True) for name, tensor in state.items() if name != "norms"}
        names = [name.removeprefix("parameters.") for name in state if name.startswith("parameters.")]
        parameters = Parameters(**{name: state[f"parameters.{name}"] for name in names})
        trainer = cls(parameters, Scaling(state["x_mean"], x_norm, state["y_mean"], y_norm), settings)
        for name, value in parameters.named().items():
            moments = {key.rsplit(".", 1)[1]: t for key, t in state.items() if key.startswith(f"adam.{name}.")}
            trainer.optimizer.state[value] = moments
        trainer.tokens_since_active = state["tokens_since_active"]
        trainer.step_number = int(state["step_number"])
        return trainer


def first_parameters(
    x: Float[Tensor, "n d_model"], y: Float[Tensor, "n d_model"], settings: TrainingSettings
) -> Parameters:
    """The first features: the inputs and outputs at some tokens, as directions, with a little noise."""
    generator = torch.Generator().manual_seed(settings.seed)
    start = torch.randint(len(x), (settings.d_transcoder,), generator=generator).to(x.device)

    def noise(width: int) -> Tensor:  # separates features that start from the same token
        drawn = torch.randn(settings.d_transcoder, width, generator=generator)
        return (0.1 / math.sqrt(width) * drawn).to(x.device)

    encoder = normalize(x[start], dim=1) + noise(x.shape[1])
    decoder = normalize(normalize(y[start], dim=1) + noise(y.shape[1]), dim=1)
    jump = settings.activation == "jumprelu"
    return Parameters(
        W_enc=encoder,
        b_enc=x.new_zeros(settings.d_transcoder),
        W_dec=decoder,
        b_dec=y.new_zeros(y.shape[1]),
        W_skip=x.new_zeros(y.shape[1], x.shape[1]) if settings.skip else None,
        log_threshold=x.new_full((settings.d_transcoder,), math.log(0.1)) if jump else None,
    )


def _first_gain(p: Parameters, x: Tensor, y: Tensor, settings: TrainingSettings) -> float:
    """The factor of the inputs with which the first features reconstruct outputs of the right size. Many of them point
    in the same direction; without the factor, their sum is ten times too large, and training takes many more steps."""
    kind = "topk" if settings.activation == "topk" else "relu"
    found = activate(x @ p.W_enc.T, kind, None, settings.k) @ p.W_dec
    gain = float((found * y).sum() / found.square().sum().clamp(min=1e-12))
    return min(1.0, max(MIN_GAIN, gain))


def schedule(step: int, settings: TrainingSettings) -> float:
    """Share of the peak learning rate at a step: linear rise, constant, linear fall to zero."""
    rise, fall = settings.warm_up * settings.n_steps, settings.decay * settings.n_steps
    return min(1.0, (step + 1) / max(rise, 1.0), (settings.n_steps - step) / max(fall, 1.0))
