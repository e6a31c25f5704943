"""What every feature does when the model reads a single token: the ground on which tokens are validated."""

from collections.abc import Iterable
from copy import deepcopy
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor, nn

from interp.capture import Hooks, read_inputs
from interp.families import Family
from interp.transcoder import Encoder

TOKENS_PER_FORWARD = 512
TOKENS_PER_ENCODE = 512


class Activations(NamedTuple):
    """Active (feature, token) pairs of one layer."""

    feature: Int32[np.ndarray, " n"]
    token: Int32[np.ndarray, " n"]
    value: Float32[np.ndarray, " n"]


@torch.no_grad()
def single_token_inputs(
    model: nn.Module, family: Family, hooks: Hooks, n_layers: int, tokens: range, bos: int | None
) -> Float32[Tensor, "layers tokens d_model"]:
    """Every layer's transcoder input at the last position of `[BOS, token]` (of `[token]` without BOS).

    BOS does not see what follows it: it is run once, and its keys and values serve every token.

    Memory: what is returned, and the keys and values of `TOKENS_PER_FORWARD` copies of BOS.

    Raises:
        ValueError: the model's attention sees one token only, so that BOS is nothing to it.
    """
    if bos is not None and getattr(model.config, "sliding_window", None) == 1:
        raise ValueError("config.json: sliding_window is 1; expected 2 or more, or a model without BOS")
    device = next(model.parameters()).device
    d_model = attrgetter("config.hidden_size")(model)
    inputs = torch.empty(n_layers, len(tokens), d_model, device=device)
    before: Any = None
    if bos is not None:
        before = attrgetter("past_key_values")(model(input_ids=torch.tensor([[bos]], device=device), use_cache=True))
    for start in range(0, len(tokens), TOKENS_PER_FORWARD):
        ids = torch.tensor(tokens[start : start + TOKENS_PER_FORWARD], device=device)[:, None]
        past = deepcopy(before)
        if past is not None:
            past.batch_repeat_interleave(len(ids))

        def keep(layer: int, x: Tensor, start: int = start) -> None:
            inputs[layer, start : start + len(x)] = x[:, -1]

        read_inputs(model, family, ids, range(n_layers), hooks, keep, past)
    return inputs


@torch.no_grad()
def active_features(
    inputs: Float32[Tensor, "tokens d_model"], first_token: int, encoders: Iterable[tuple[int, Encoder]]
) -> Activations:
    """The features of one layer that fire, from its encoder in pieces, each with the index of its first feature.

    Memory: one piece, its activations at `TOKENS_PER_ENCODE` tokens, and what is returned.
    """
    found = []
    for first_feature, encoder in encoders:
        for start in range(0, len(inputs), TOKENS_PER_ENCODE):
            a = encoder.encode(inputs[start : start + TOKENS_PER_ENCODE])
            token, feature = (a > 0).nonzero(as_tuple=True)
            places = ((feature + first_feature).int(), (token + first_token + start).int())
            found.append((*places, a[token, feature]))
    return Activations(*(torch.cat(column).cpu().numpy() for column in zip(*found, strict=True)))
