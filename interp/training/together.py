"""Train the transcoders of many layers from one pass of the model."""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor

from jaxtyping import Float
from torch import Tensor

from interp.training.settings import TrainingSettings
from interp.training.trainer import Step, Trainer

Streams = tuple[Float[Tensor, "n d_model"], Float[Tensor, "n d_model"]]
"""The inputs and outputs of a layer's MLP at the tokens of a step."""

Read = Callable[[int, list[int]], Mapping[int, Streams]]
"""Gives the streams of some layers at a step. The result must not depend on which other layers are read."""

OnStep = Callable[[Mapping[int, Trainer], Mapping[int, Step]], None]
"""Called after every step with all trainers and the figures of those that took part."""


def train_together(
    read: Read,
    layers: list[int],
    settings: TrainingSettings,
    pool: Executor,
    on_step: OnStep,
    trainers: Mapping[int, Trainer] | None = None,
) -> dict[int, Trainer]:
    """Train `layers`, continuing the given `trainers`, each layer in a thread of the `pool`.

    Every layer's weights are the same as if it were trained alone. Trainers that are ahead wait for the others, so
    states that were saved at different steps can be continued together.
    """
    together = dict(trainers or {})
    missing = [layer for layer in layers if layer not in together]
    if missing:
        together |= {layer: Trainer.started(*streams, settings) for layer, streams in read(0, missing).items()}
    while (step := min(trainer.step_number for trainer in together.values())) < settings.n_steps:
        behind = [layer for layer in layers if together[layer].step_number == step]
        streams = dict(read(step, behind))
        figures = pool.map(lambda layer, read=streams: together[layer].step(*read.pop(layer)), behind)
        on_step(together, dict(zip(behind, figures, strict=True)))
    return together
