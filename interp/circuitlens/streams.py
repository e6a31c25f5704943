"""The intermediate values of a model's forward pass that freezing it needs."""

from collections.abc import Sequence
from contextlib import suppress

import torch
from jaxtyping import Integer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.hooks import RemovableHandle

from interp.capture import EndOfPass, in_this_thread, on_feature_input, on_feature_output, removing, vectors_of
from interp.circuitlens.linear import LinearModel

Seen = dict[str | tuple[str, int], Tensor]
"""Values that hooks recorded in one forward pass, by name or by (name, layer)."""


def read_streams(linear: LinearModel, tokens: Integer[Tensor, " n_pos"]) -> Seen:
    """The values of one forward pass that freezing needs, by name or by (name, layer).

    These are `embedding` and `final`, and for each layer `resid_pre` and `resid_mid` (the inputs of its norms),
    `pattern`, `x` and `y` (the transcoder's input, and the output it stands in for), and the inputs of norms after
    attention and MLP.
    """
    return read_streams_of(linear, [tokens])[0]


def read_streams_of(linear: LinearModel, sequences: Sequence[Integer[Tensor, " _"]]) -> list[Seen]:
    """The same for several sequences, which the model reads in one batch."""
    family, model = linear.family, linear.model
    seen: Seen = {}

    def inputs_of(module: nn.Module, name: str | tuple[str, int]) -> RemovableHandle:
        keep = in_this_thread(lambda _, args: seen.update({name: args[0].float()}))
        return module.register_forward_pre_hook(keep)

    def output_of(module: nn.Module, name: str | tuple[str, int]) -> RemovableHandle:
        keep = in_this_thread(lambda _m, _a, output: seen.update({name: vectors_of(output).float()}))
        return module.register_forward_hook(keep)

    def pattern_of(module: nn.Module, layer: int) -> RemovableHandle:
        def keep(_m: object, _a: object, output: tuple[Tensor, Tensor | None]) -> None:
            if output[1] is None:
                raise ValueError('the model keeps its attention patterns to itself: set_attn_implementation("eager")')
            seen["pattern", layer] = output[1].float()

        return module.register_forward_hook(in_this_thread(keep))

    def rotation_of(module: nn.Module, layer: int) -> RemovableHandle:
        def keep(_m: object, _a: object, given: dict[str, object]) -> None:
            tables = family.rotation(module, given.get("position_embeddings"), max(map(len, sequences)))
            if tables is not None:
                seen["cos", layer], seen["sin", layer] = tables

        return module.register_forward_pre_hook(in_this_thread(keep), with_kwargs=True)

    @in_this_thread
    def end(*_: object) -> None:
        raise EndOfPass

    embedding, final = family.module(model, family.embedding), family.module(model, family.final_norm)
    handles = [output_of(embedding, "embedding"), inputs_of(final, "final"), final.register_forward_pre_hook(end)]
    for layer, block in enumerate(family.block_modules(model)):
        handles.append(inputs_of(family.attention_input(block), ("resid_pre", layer)))
        handles.append(inputs_of(family.mlp_input(block), ("resid_mid", layer)))
        handles.append(pattern_of(family.module(block, family.attention), layer))
        handles.append(rotation_of(family.module(block, family.attention), layer))
        wrote = lambda y, layer=layer: seen.update({("y", layer): y.float()})  # noqa: E731
        handles.append(on_feature_output(family, block, linear.mlp_hooks, wrote))
        receive = lambda x, layer=layer: seen.update({("x", layer): x})  # noqa: E731
        handles.append(on_feature_input(family, block, linear.mlp_hooks, receive))
        if family.attention_output_norm is not None:
            handles.append(inputs_of(family.module(block, family.attention_output_norm), ("attention_out", layer)))
        if linear.mlp[layer].write is not None:
            assert family.mlp_output_norm is not None
            handles.append(inputs_of(family.module(block, family.mlp_output_norm), ("mlp_out", layer)))
    with removing(handles), suppress(EndOfPass):
        model(input_ids=pad_sequence([tokens.long() for tokens in sequences], batch_first=True), use_cache=False)
    apart = [_of_sequence(seen, at, len(tokens)) for at, tokens in enumerate(sequences)]
    if not all(torch.isfinite(one["final"]).all() for one in apart):
        raise ValueError("the residual stream overflows on this sequence: it holds numbers that are not finite")
    return apart


def _of_sequence(seen: Seen, at: int, n_pos: int) -> Seen:
    """One sequence of a batch that hooks recorded, without its padding, which no earlier token attends to."""
    own: Seen = {}
    for name, value in seen.items():
        one = value[at if len(value) > 1 else 0]  # rotations are recorded once for the whole batch
        own[name] = one[:, :n_pos, :n_pos] if name[0] == "pattern" else one[:n_pos]
    return {name: value.contiguous() for name, value in own.items()}
