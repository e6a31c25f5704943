"""What every feature does when the model reads a single token: the ground on which tokens are validated."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from interp.capture import Hooks, capture
from interp.families import Family
from interp.transcoder import Transcoder

TOKENS_PER_FORWARD = 1024
TOKENS_PER_ENCODE = 256


class Activations(NamedTuple):
    """Active (feature, token) pairs of one layer."""

    feature: Int64[np.ndarray, " n"]
    token: Int64[np.ndarray, " n"]
    value: Float32[np.ndarray, " n"]


@torch.no_grad()
def single_token_inputs(
    model: nn.Module, family: Family, hooks: Hooks, n_layers: int, tokens: range, bos: int | None
) -> dict[int, Float32[Tensor, "tokens d_model"]]:
    """Every layer's transcoder input at the last position of `[BOS, token]` (of `[token]` without BOS)."""
    device = next(model.parameters()).device
    pieces: dict[int, list[Tensor]] = {layer: [] for layer in range(n_layers)}
    for start in range(tokens.start, tokens.stop, TOKENS_PER_FORWARD):
        ids = torch.arange(start, min(start + TOKENS_PER_FORWARD, tokens.stop), device=device)[:, None]
        if bos is not None:
            ids = torch.cat([torch.full_like(ids, bos), ids], 1)
        for layer, streams in capture(model, family, ids, range(n_layers), hooks).items():
            pieces[layer].append(streams.x[:, -1].clone())
    return {layer: torch.cat(xs) for layer, xs in pieces.items()}


@torch.no_grad()
def active_features(
    inputs: dict[int, Float32[Tensor, "tokens d_model"]],
    first_token: int,
    transcoder: Callable[[int], Transcoder],
    layers: Sequence[int],
) -> Iterator[tuple[int, Activations]]:
    """Layer by layer, the features that fire. Memory: one transcoder and `TOKENS_PER_ENCODE` dense rows."""
    for layer in layers:
        coder = transcoder(layer)
        found = []
        for start in range(0, len(inputs[layer]), TOKENS_PER_ENCODE):
            a = coder.encode(inputs[layer][start : start + TOKENS_PER_ENCODE])
            token, feature = (a > 0).nonzero(as_tuple=True)
            found.append((feature, token + first_token + start, a[token, feature]))
        feature, token, value = (torch.cat(column).cpu().numpy() for column in zip(*found, strict=True))
        yield layer, Activations(feature, token, value)
