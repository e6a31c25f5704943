"""Record the inputs and outputs of the MLPs of many layers at the tokens of a step, in one forward pass."""

from collections.abc import Callable
from concurrent.futures import Executor
from operator import attrgetter

import torch
from jaxtyping import Bool, Integer
from torch import Tensor, nn

from interp.batches import in_batches
from interp.capture import HookedModel, Hooks, read_streams
from interp.families import Family
from interp.training.together import Streams

POSITIONS_PER_PASS = 2048
"""Positions in one forward pass of a thread."""


def captured(
    model: nn.Module,
    family: Family,
    hooks: Hooks,
    layers: list[int],
    text: tuple[Integer[Tensor, "rows n_pos"], Bool[Tensor, "rows n_pos"]],
    pool: Executor,
) -> dict[int, Streams]:
    """The streams of some layers at the kept positions of a text (tokens, which are kept), row after row.

    Memory: the result, and the intermediate values of a pass for each thread of the pool.
    """
    tokens, kept = text
    embedding = attrgetter(family.embedding)(model).weight
    device, d_model, n = embedding.device, embedding.shape[1], int(kept.sum())

    def empty() -> Tensor:
        return torch.empty(n, d_model, device=device)

    found = {layer: (empty(), empty()) for layer in layers}
    step = max(1, POSITIONS_PER_PASS // tokens.shape[1])
    starts = range(0, len(tokens), step)
    firsts = [0, *kept.sum(1).cumsum(0).tolist()]

    def run(start: int) -> None:
        n_rows = min(step, len(tokens) - start)

        def read_part(part: slice) -> None:
            read(slice(start + part.start, start + part.stop))

        in_batches("rows to train on", device, n_rows, n_rows, read_part, tokens.shape[1])

    def read(rows: slice) -> None:
        at = kept[rows].flatten().nonzero().squeeze(1)
        place = slice(firsts[rows.start], firsts[rows.start] + len(at))
        picking = _picking(found, at.to(device), place)
        read_streams(HookedModel(model, family, hooks), tokens[rows].to(device), layers, picking)

    list(pool.map(run, starts))
    return found


def _picking(found: dict[int, Streams], at: Tensor, place: slice) -> Callable[[int, int, Tensor], None]:
    """A callback that writes the positions `at` of a layer's input (0) or output (1) to this block's place in the
    arrays of all rows."""

    def receive(layer: int, which: int, stream: Tensor) -> None:
        torch.index_select(stream.flatten(0, 1), 0, at, out=found[layer][which][place])

    return receive
