"""The features that are active at the tokens of a prompt."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from flows.inputs.named import not_ingested
from flows.one_prompt.opened import Opened, Prompt
from interp.capture import HookedModel, read_inputs
from interp.circuitlens.written import active_features


class Firing(NamedTuple):
    """A feature that is active at a token of a prompt."""

    position: int
    token: str
    layer: int
    feature: int
    activation: float


def active_at(opened: Opened, prompt: Prompt, layers: Sequence[int] | None = None) -> list[Firing]:
    """Every active feature of some layers (None: of all) at every token, by layer, then position, then feature.

    Raises:
        ValueError: the model has no such layer.
    """
    n_layers, there = opened.checkpoint.n_layers, opened.checkpoint.layers
    wanted = there if layers is None else sorted(set(layers))
    if not wanted or not 0 <= wanted[0] <= wanted[-1] < n_layers:
        raise ValueError(f"layers {list(wanted)}: the model has layers 0-{n_layers - 1}")
    for layer in wanted:
        if layer not in there:
            raise ValueError(not_ingested(opened.checkpoint.attributes.name, layer, there))
    found: list[Firing] = []

    def receive(layer: int, x: torch.Tensor) -> None:
        active = active_features(opened.transcoder(layer), x[0])
        columns = (active.position.tolist(), active.feature.tolist(), active.activation.tolist())
        found.extend(
            Firing(at, prompt.texts[at], layer, feature, value) for at, feature, value in zip(*columns, strict=True)
        )

    hooked = HookedModel(opened.model, opened.folder.family, opened.checkpoint.hooks)
    read_inputs(hooked, prompt.tokens[None], wanted, receive)
    return found
