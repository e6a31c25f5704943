"""The effects of many interventions on one prompt: as the graph predicts them, and as measured in the model."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from interp.batches import each_batch
from interp.interventions.at_rest import AtRest, changed_readings
from interp.interventions.changes import Changes, FeatureChange
from interp.interventions.measured import measured
from interp.interventions.readings import Reading, targets_of
from interp.interventions.running import SteerableModel

BYTES = 256_000_000
"""Memory of the arrays of interventions that are computed together, in bytes."""

ARRAYS = 12
"""Arrays of n_pos · d_model numbers that each of them needs."""


class Effects(NamedTuple):
    """The effect of each intervention on each reading."""

    before: Float[Tensor, " n_readings"]
    """The readings of the unchanged model."""
    predicted: Float[Tensor, "n n_readings"]
    """Their changes along all paths of the attribution graph: active features respond linearly until they are
    inactive."""
    measured_frozen: Float[Tensor, "n n_readings"]
    """Their changes where MLPs are computed anew, with the attention patterns and norm scales of the prompt."""
    measured: Float[Tensor, "n n_readings"]
    """Their changes in the model with nothing frozen."""


def interventions_at_once(n_pos: int, d_model: int) -> int:
    """The number of interventions on a prompt that are computed together."""
    return max(1, BYTES // (4 * ARRAYS * n_pos * d_model))


def in_rows(changes: Sequence[Changes]) -> Changes:
    """Each change in a row of its own, in the same order."""
    return Changes(
        [one._replace(row=row) for row, each in enumerate(changes) for one in each.features],
        [one._replace(row=row) for row, each in enumerate(changes) for one in each.heads],
    )


def switched_off(nodes: Sequence[tuple[int, int, int]]) -> Changes:
    """Some features, each (layer, feature, position), held at 0 at their positions."""
    return Changes(
        [
            FeatureChange(0, layer, feature, start=position, stop=position + 1).held_at(0.0)
            for layer, feature, position in nodes
        ]
    )


def effects_of(
    rest: AtRest, steerable: SteerableModel, changes: Sequence[Changes], readings: Sequence[Reading]
) -> Effects:
    """Make each of `changes` on a copy of the prompt, in batches of `BYTES` (at least one change).

    Memory: a batch, and the model's.
    """
    targets = targets_of(rest.linear, rest.frozen, rest.transcoder, readings)
    tokens, n_readings = rest.frozen.tokens, len(readings)
    before = measured(steerable, tokens, Changes(), 1, readings).readings[0]

    def run(part: slice) -> Float[Tensor, "n n_readings 3"]:
        some = changes[part]
        rows = in_rows(some)
        predicted, frozen = (changed_readings(rest, rows, len(some), targets, mlps) for mlps in ("features", "model"))
        after = measured(steerable, tokens, rows, len(some), readings).readings
        return torch.stack([predicted, frozen, after - before], 2)

    n_pos, d_model = rest.frozen.embedding.shape
    found = each_batch("interventions", before.device, len(changes), interventions_at_once(n_pos, d_model), run, n_pos)
    return Effects(before, *torch.cat([before.new_zeros(0, n_readings, 3), *found]).unbind(2))


def correlation(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> float | None:
    """Pearson correlation; None for fewer than three pairs, or where one side is constant."""
    if len(a) < 3:
        return None
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0 else None


def matched(
    activation: Float[Tensor, " n"], chosen: Int64[Tensor, " k"], seed: int, among: int = 10
) -> Int64[Tensor, " m"]:
    """For each chosen feature, a random other one of `among` with an activation of nearly the same size (by ratio),
    each used once.

    Fewer than are chosen if there are not enough others.
    """
    generator = torch.Generator().manual_seed(seed)
    size = activation.cpu().clamp(min=1e-20).log()
    free = torch.ones(len(size), dtype=torch.bool)
    free[chosen.cpu()] = False
    found: list[int] = []
    for at in chosen.tolist():
        others = free.nonzero().squeeze(1)
        if not len(others):
            break
        near = others[(size[others] - size[at]).abs().argsort(stable=True)[:among]]
        one = int(near[int(torch.randint(len(near), (1,), generator=generator))])
        free[one] = False
        found.append(one)
    return torch.tensor(found, dtype=torch.long)
