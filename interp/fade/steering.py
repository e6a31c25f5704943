"""Continuations of prompts with a feature held at a value, through the transcoder's decoder at the output hook."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor, nn

from interp.capture import Hooks, in_this_thread, on_feature_input, output_module, removing
from interp.families import Family
from interp.transcoder import Transcoder


class SteeredFeature(NamedTuple):
    """For each row of a batch, the feature that is held and its value."""

    feature: Int64[Tensor, " batch"]
    value: Float[Tensor, " batch"]


@torch.no_grad()
def continuations(
    model: nn.Module,
    family: Family,
    hooks: Hooks,
    layer: int,
    transcoder: Transcoder,
    held: SteeredFeature,
    prompts: Integer[Tensor, "batch n_prompt"],
    new_tokens: int,
) -> Int64[Tensor, "batch new_tokens"]:
    """What the model writes, the likeliest token each time, while each row's feature is held.

    At every token of the prompt and of what is written, `(value − activation) · W_dec[feature]` is added where the
    transcoder's output stands for the model's: the feature's own write is taken away and that of the value put in its
    place, the rest of the MLP stays. A cross-layer feature's writes to later layers are held likewise where the
    transcoder has its later decoders.
    Memory: the batch's keys and values, and for TopK its activations of all features.
    """
    blocks = family.block_modules(model)
    change: list[Tensor] = []

    def measure(x: Tensor) -> None:
        active = _activation(transcoder, held.feature, x)
        change[:] = [held.value[:, None] - active]

    def adding(decoders: Tensor) -> Any:
        def hook(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
            return output + (change[0][..., None] * decoders[:, None]).to(output.dtype)

        return in_this_thread(hook)

    handles = [on_feature_input(family, blocks[layer], hooks, measure)]
    for block, decoders in zip(blocks[layer:], _decoders(transcoder, held.feature), strict=False):
        handles.append(output_module(family, block, hooks).register_forward_hook(adding(decoders)))
    with removing(handles):
        return _greedy(model, prompts.long(), new_tokens)


def _activation(
    transcoder: Transcoder, feature: Int64[Tensor, " batch"], x: Float[Tensor, "batch n_pos d_model"]
) -> Float[Tensor, "batch n_pos"]:
    if transcoder.activation == "topk":
        every = transcoder.encode(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return every.gather(2, feature[:, None, None].expand(-1, x.shape[1], 1)).squeeze(2)
    pre = torch.einsum("bpd,bd->bp", x, transcoder.W_enc[feature]) + transcoder.b_enc[feature][:, None]
    if transcoder.threshold is None:
        return pre.relu()
    return torch.where(pre > transcoder.threshold[feature].clamp(min=0)[:, None], pre, 0)


def _decoders(transcoder: Transcoder, feature: Int64[Tensor, " batch"]) -> list[Float[Tensor, "batch d_model"]]:
    """What the features write to their own layer and to those above."""
    own = [transcoder.W_dec[feature]]
    if transcoder.W_dec_later is None:
        return own
    return own + list(transcoder.W_dec_later[feature].unbind(1))


def _greedy(model: nn.Module, tokens: Tensor, new_tokens: int) -> Tensor:
    written, past = [], None
    for _ in range(new_tokens):
        result = model(input_ids=tokens, past_key_values=past, use_cache=True)
        tokens, past = result.logits[:, -1].argmax(-1, keepdim=True), result.past_key_values
        written.append(tokens)
    return torch.cat(written, 1)
