"""Run a model with changes on copies of one prompt and measure the effects; nothing is frozen."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interp.capture import in_this_thread, last_position_alone, on_feature_input, removing
from interp.interventions.changes import Changes
from interp.interventions.generating import divergence
from interp.interventions.readings import FeatureReading, LogitReading, Reading
from interp.interventions.running import SteerableModel, changing


class Measured(NamedTuple):
    """Results of the model in each row."""

    readings: Float[Tensor, "n_rows n_readings"]
    next_token: Int64[Tensor, " n_rows"]
    """The most probable tokens after the prompt."""
    probability: Float[Tensor, " n_rows"]
    """Its probability."""
    log_probability: Float[Tensor, "n_rows d_vocab"]
    """Log probabilities of every next token."""

    def divergence_from(self, other: "Measured") -> Float[Tensor, " n_rows"]:
        """KL(this ‖ the single row of another) of the next token, in nats."""
        return divergence(self.log_probability, other.log_probability.expand_as(self.log_probability))


@torch.no_grad()
def measured(
    steerable: SteerableModel,
    tokens: Integer[Tensor, " n_pos"],
    changes: Changes,
    n_rows: int,
    readings: Sequence[Reading],
) -> Measured:
    """The readings and the next token in `n_rows` copies of a prompt with their changes.

    Memory: a forward pass of n_rows prompts, and n_rows · d_vocab numbers.
    """
    found = torch.zeros(n_rows, len(readings), device=steerable.device)
    reading = removing(list(_reading_hooks(steerable, readings, found)))
    with changing(steerable, changes), reading, last_position_alone(steerable.model, steerable.family):
        rows = tokens.long().expand(n_rows, -1)
        logits = steerable.model(input_ids=rows, use_cache=False).logits.float()
    log_probability = logits.log_softmax(-1)
    best, token = log_probability.max(-1)
    return Measured(found, token, best.exp(), log_probability)


def _reading_hooks(steerable: SteerableModel, readings: Sequence[Reading], found: Tensor) -> list[RemovableHandle]:
    family, handles = steerable.family, []
    blocks = family.block_modules(steerable.model)
    of_layer: dict[int, list[tuple[int, FeatureReading]]] = {}
    logits = [(at, one) for at, one in enumerate(readings) if isinstance(one, LogitReading)]
    for at, one in enumerate(readings):
        if isinstance(one, FeatureReading):
            of_layer.setdefault(one.layer, []).append((at, one))
    for layer, mine in of_layer.items():
        handles.append(
            on_feature_input(family, blocks[layer], steerable.hooks, _features(steerable, layer, mine, found))
        )

    def read_logits(_module: nn.Module, _args: object, output: Tensor) -> None:
        for at, one in logits:
            found[:, at] = output[:, one.position].float() @ one.direction

    if logits:
        norm = family.module(steerable.model, family.final_norm)
        handles.append(norm.register_forward_hook(in_this_thread(read_logits)))
    return handles


def _features(
    steerable: SteerableModel, layer: int, mine: list[tuple[int, FeatureReading]], found: Tensor
) -> Callable[[Tensor], None]:
    coder = steerable.transcoder(layer)

    def read(x: Tensor) -> None:
        for at, one in mine:
            found[:, at] = x[:, one.position] @ coder.W_enc[one.feature] + coder.b_enc[one.feature]

    return read


@torch.no_grad()
def head_outputs(
    steerable: SteerableModel, tokens: Integer[Tensor, " n_pos"], layers: Sequence[int]
) -> dict[int, Float[Tensor, "n_pos n_heads d_head"]]:
    """What each head of some layers mixes at each position of a prompt, before the output projection."""
    family, found = steerable.family, {}
    n_heads = family.n_heads(steerable.model)
    handles = []

    def keep(layer: int) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            found[layer] = args[0][0].unflatten(1, (n_heads, -1)).float()

        return in_this_thread(hook)

    for layer in layers:
        attention = family.module(family.block_modules(steerable.model)[layer], family.attention)
        handles.append(family.module(attention, family.output).register_forward_pre_hook(keep(layer)))
    with removing(handles):
        steerable.model(input_ids=tokens.long()[None], use_cache=False, logits_to_keep=1)
    return found
