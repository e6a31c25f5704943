"""Check a family's description of a model against the model's own forward pass, before anything is computed with it.

The module paths of a family may exist in a model that computes something else: with a multiplier on the residual
stream, a clipped projection, a bias on the logits. Attributions would then explain another model.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.capture import in_this_thread, removing, vectors_of
from interp.families.family import Family, Norm

N_TOKENS = 8
TOLERANCE = 1e-3
"""Largest accepted difference, as a share of the norm of what is compared; float32 stays below 1e-5."""


class _Seen(NamedTuple):
    """Inputs and outputs of modules in one forward pass, by layer."""

    streams: list[Tensor]
    attention: list[Tensor]
    patterns: list[Tensor]
    mlp_in: list[Tensor]
    mlp: list[Tensor]


@torch.no_grad()
def disagreement(model: nn.Module, family: Family) -> str | None:
    """The first thing that the family describes wrongly for a model, in words; None if it describes all correctly.

    Compared are the embedding, what each block adds to the residual stream, each attention as the sum of its heads, the
    input of each MLP, and the logits.
    """
    n_vocab = family.W_E(model).shape[0]
    tokens = (torch.arange(1, N_TOKENS + 1) * 7919 % n_vocab)[None]
    seen, logits = _run(model, family, tokens)
    return next((problem for problem, is_wrong in _compared(model, family, tokens, seen, logits) if is_wrong), None)


def _run(model: nn.Module, family: Family, tokens: Tensor) -> tuple[_Seen, Tensor]:
    blocks, seen = family.block_modules(model), _Seen([], [], [], [], [])

    def kept(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, *tuple[object, ...]]) -> None:
        seen.streams.append(vectors_of(output))

    def attended(_module: nn.Module, _args: object, output: tuple[Tensor, Tensor]) -> None:
        seen.attention.append(output[0])
        seen.patterns.append(output[1])

    def mixed(
        _module: nn.Module, args: tuple[Tensor, ...], output: Tensor | tuple[Tensor, *tuple[object, ...]]
    ) -> None:
        seen.mlp_in.append(args[0])
        seen.mlp.append(vectors_of(output))

    first = in_this_thread(lambda _module, args: seen.streams.append(args[0]))
    handles = [blocks[0].register_forward_pre_hook(first)]
    for block in blocks:
        handles.append(family.module(block, family.attention).register_forward_hook(in_this_thread(attended)))
        handles.append(family.module(block, family.mlp).register_forward_hook(in_this_thread(mixed)))
        handles.append(block.register_forward_hook(in_this_thread(kept)))
    before = model.config._attn_implementation  # pyright: ignore
    model.set_attn_implementation("eager")  # pyright: ignore
    try:
        with removing(handles):
            logits = model(input_ids=tokens, use_cache=False).logits
    finally:
        model.set_attn_implementation(before)  # pyright: ignore
    return seen, logits


def _compared(
    model: nn.Module, family: Family, tokens: Tensor, seen: _Seen, logits: Tensor
) -> Iterator[tuple[str, bool]]:
    positions = family.W_pos(model)
    stream = family.W_E(model)[tokens] + (0 if positions is None else positions[: tokens.shape[1]])
    yield "what the tokens write to the residual stream is not the embedding", _differ(stream, seen.streams[0])
    for layer in range(len(seen.attention)):
        before, after = seen.streams[layer : layer + 2]
        read = _applied(family.attention_read_norm(model, layer), before)
        heads = _heads(model, family, layer, read, seen.patterns[layer])
        yield f"layer {layer}: the attention is not the sum of its heads", _differ(heads, seen.attention[layer])
        attention = _applied(family.attention_write_norm(model, layer), seen.attention[layer])
        middle = before if family.parallel(model) else before + attention
        read = _applied(family.read_norm(model, layer), middle)
        yield f"layer {layer}: the MLP reads something else than the residual stream", _differ(read, seen.mlp_in[layer])
        mlp = _applied(family.write_norm(model, layer), seen.mlp[layer])
        problem = f"layer {layer}: attention and MLP are not all that is added to the residual stream"
        yield problem, _differ(before + attention + mlp, after)
    final = family.logits(model, _applied(family.unembedding_norm(model), seen.streams[-1]))
    yield "the logits are not the unembedding of the last residual stream", _differ(final, logits)


def _heads(model: nn.Module, family: Family, layer: int, x: Tensor, pattern: Tensor) -> Tensor:
    W_V, b_V, W_O = family.W_V(model, layer), family.b_V(model, layer), family.W_O(model, layer)
    values = torch.einsum("bsd,ked->bske", x.to(W_V.dtype), W_V) + (0 if b_V is None else b_V)
    values = values.repeat_interleave(len(W_O) // len(W_V), 2)
    total = torch.einsum("bhqs,bshe,hde->bqd", pattern.to(values.dtype), values, W_O)
    b_O = family.b_O(model, layer)
    return total if b_O is None else total + b_O


def _applied(norm: Norm | None, x: Tensor) -> Tensor:
    if norm is None or not norm.divides:
        return x.float()
    return norm.normalize(x) * norm.weight + (0 if norm.bias is None else norm.bias)


def _differ(said: Float[Tensor, "..."], found: Float[Tensor, "..."]) -> bool:
    scale = torch.maximum(said.float().norm(), found.float().norm())
    return bool((said.float() - found.float()).norm() > TOLERANCE * scale)
