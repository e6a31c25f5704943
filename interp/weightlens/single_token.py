"""What every feature does when the model reads a single token; tokens are validated by this."""

from copy import deepcopy
from operator import attrgetter

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from interp.batches import in_batches
from interp.capture import HookedModel, Hooks, KeysAndValues, read_inputs
from interp.families import Family

TOKENS_PER_FORWARD = 512


@torch.no_grad()
def single_token_inputs(
    model: nn.Module, family: Family, hooks: Hooks, n_layers: int, tokens: range, bos: int | None
) -> Float32[Tensor, "layers tokens d_model"]:
    """Every layer's transcoder input at the last position of `[BOS, token]` (of `[token]` without BOS).

    BOS does not see what follows it: it is run once, and its keys and values are used for every token.

    Memory: the result, and the keys and values of `TOKENS_PER_FORWARD` copies of BOS; fewer on a GPU without room for
    them.

    Raises:
        ValueError: the model's attention window is one token, so that BOS has no effect.
    """
    if bos is not None and getattr(model.config, "sliding_window", None) == 1:
        raise ValueError("config.json: sliding_window is 1; expected 2 or more, or a model without BOS")
    device = next(model.parameters()).device
    d_model = attrgetter("config.hidden_size")(model)
    inputs = torch.empty(n_layers, len(tokens), d_model, device=device)
    before: KeysAndValues | None = None
    if bos is not None:
        before = attrgetter("past_key_values")(model(input_ids=torch.tensor([[bos]], device=device), use_cache=True))

    def read(part: slice) -> None:
        ids = torch.tensor(tokens[part], device=device)[:, None]
        past = deepcopy(before)
        if past is not None:
            past.batch_repeat_interleave(len(ids))

        def keep(layer: int, x: Tensor) -> None:
            inputs[layer, part] = x[:, -1]

        read_inputs(HookedModel(model, family, hooks), ids, range(n_layers), keep, past)

    in_batches("single tokens", device, len(tokens), TOKENS_PER_FORWARD, read)
    return inputs
