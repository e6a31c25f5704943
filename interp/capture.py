"""Run a model and record what its MLPs read and write, or replace what they write."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import get_ident
from typing import Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interp.families import Family

InputHook = Literal["resid_mid", "mlp_in_normalized", "mlp_in"]
OutputHook = Literal["mlp_out", "mlp_out_normed"]


class Hooks(NamedTuple):
    """The model's points that a transcoder reads from and writes to; part of a checkpoint's identity, never guessed.

    `resid_mid` is the residual stream before the MLP's norm, `mlp_in_normalized` the same after the norm's division but
    before its weight and bias, `mlp_in` the input of the MLP module. `mlp_out` is the output of the MLP module,
    `mlp_out_normed` the same after the post-MLP norm of Gemma-2 and -3.
    """

    feature_input: InputHook
    feature_output: OutputHook


class HookedModel(NamedTuple):
    """A model, its family (where its parts are), and its hooks (where its transcoders read and write)."""

    model: nn.Module
    family: Family
    hooks: Hooks


class MlpStreams(NamedTuple):
    """The transcoder input of one layer and the output it should have, at every token."""

    x: Float[Tensor, "batch n_pos d_model"]
    y: Float[Tensor, "batch n_pos d_model"]


class EndOfPass(Exception):  # noqa: N818
    """Raised to end a forward pass once the last wanted layer has been read."""


T = TypeVar("T")


@runtime_checkable
class KeysAndValues(Protocol):
    """The keys and values of the tokens that a model has read: the interface of transformers' `Cache`."""

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence of the batch."""
        ...


@contextmanager
def removing(handles: list[RemovableHandle]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def in_this_thread(hook: Callable[..., T]) -> Callable[..., T | None]:
    """Make a hook that acts only in the thread that made it, since tasks in threads share one model."""
    me = get_ident()
    return lambda *args: hook(*args) if get_ident() == me else None


def vectors_of(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The vectors in what a module returned; some return more beside them (GPT-OSS: its router's scores)."""
    return output if isinstance(output, Tensor) else output[0]


def on_output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Change what a module writes; in this thread alone."""

    def hook(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        changed = change(vectors_of(output))
        return changed if isinstance(output, Tensor) else (changed, *output[1:])

    return module.register_forward_hook(in_this_thread(hook))


def output_module(family: Family, block: nn.Module, hooks: Hooks) -> nn.Module:
    """The module whose output a transcoder with these hooks replaces."""
    if hooks.feature_output == "mlp_out":
        return family.module(block, family.mlp)
    if family.mlp_output_norm is None:
        raise ValueError(f"feature_output_hook mlp_out_normed: {family.model_type} has no norm after its MLP")
    return family.module(block, family.mlp_output_norm)


def on_feature_input(
    family: Family, block: nn.Module, hooks: Hooks, receive: Callable[[Tensor], None]
) -> RemovableHandle:
    """Call `receive` with the transcoder's input each time the block runs."""
    if hooks.feature_input == "mlp_in":
        module = family.module(block, family.mlp)
        return module.register_forward_pre_hook(in_this_thread(lambda _, args: receive(args[0].float())))
    module = family.mlp_input(block)
    if hooks.feature_input == "resid_mid" or family.mlp_norm is None:
        return module.register_forward_pre_hook(in_this_thread(lambda _, args: receive(args[0].float())))
    norm = family.norm(module)
    return module.register_forward_pre_hook(in_this_thread(lambda _, args: receive(norm.normalize(args[0]))))


@torch.no_grad()
def read_streams(
    hooked: HookedModel,
    tokens: Integer[Tensor, "batch n_pos"],
    layers: Sequence[int],
    receive: Callable[[int, int, Float[Tensor, "batch n_pos d_model"]], None],
) -> None:
    """Call `receive` with the transcoder input (0) and target (1) of each of `layers`, in order, in float32. The pass
    ends after the last of them."""
    model, family, hooks = hooked
    blocks = family.block_modules(model)
    last = max(layers)

    def keep_output(layer: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> None:
            receive(layer, 1, vectors_of(output).float())
            if layer == last:
                raise EndOfPass

        return hook

    handles = []
    for layer in layers:
        handles.append(on_feature_input(family, blocks[layer], hooks, lambda x, at=layer: receive(at, 0, x)))
        keep = in_this_thread(keep_output(layer))
        handles.append(output_module(family, blocks[layer], hooks).register_forward_hook(keep))
    with removing(handles), suppress(EndOfPass):
        model(input_ids=tokens.long(), use_cache=False)


def capture(
    hooked: HookedModel, tokens: Integer[Tensor, "batch n_pos"], layers: Sequence[int]
) -> dict[int, MlpStreams]:
    """Record the transcoder input and target of `layers`. The pass ends after the last of them.

    Memory: the streams of the layers asked for, in float32.
    """
    found: dict[tuple[int, int], Tensor] = {}
    read_streams(hooked, tokens, layers, lambda layer, which, x: found.update({(layer, which): x}))
    return {layer: MlpStreams(found[layer, 0], found[layer, 1]) for layer in layers}


@torch.no_grad()
def read_inputs(
    hooked: HookedModel,
    tokens: Integer[Tensor, "batch n_pos"],
    layers: Sequence[int],
    receive: Callable[[int, Float[Tensor, "batch n_pos d_model"]], None],
    past: KeysAndValues | None = None,
) -> None:
    """Call `receive` with each of `layers` and its transcoder input, in order. The pass ends there, before the last
    MLP.

    `past` has the keys and values of earlier tokens (`past_key_values`); those of these tokens are appended to it.
    """
    model, family, hooks = hooked
    blocks = family.block_modules(model)

    def received(layer: int) -> Callable[[Tensor], None]:
        def hand_over(x: Tensor) -> None:
            receive(layer, x)
            if layer == max(layers):
                raise EndOfPass

        return hand_over

    handles = [on_feature_input(family, blocks[layer], hooks, received(layer)) for layer in layers]
    with removing(handles), suppress(EndOfPass):
        model(input_ids=tokens.long(), past_key_values=past, use_cache=past is not None)


def on_block_input(block: nn.Module, change: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Change the residual stream before a block reads it, in this thread only."""

    @in_this_thread  # outermost: while one thread registers it, another may call it without the keywords
    def hook(
        _module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        hidden = args[0] if args else kwargs["hidden_states"]
        assert isinstance(hidden, Tensor)
        if args:
            return (change(hidden), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(hidden)}

    return block.register_forward_pre_hook(hook, with_kwargs=True)


@torch.no_grad()
def last_hidden(
    model: nn.Module, family: Family, tokens: Integer[Tensor, "batch n_pos"]
) -> Float[Tensor, "rows n_pos d_model"]:
    """The input of the unembedding, final norm included. The pass ends there."""
    found: list[Tensor] = []

    def stop(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        found.append(args[0])
        raise EndOfPass

    handle = family.module(model, family.unembedding).register_forward_pre_hook(in_this_thread(stop))
    with removing([handle]), suppress(EndOfPass):
        model(input_ids=tokens.long(), use_cache=False)
    return found[0]


@contextmanager
def last_position_alone(model: nn.Module, family: Family) -> Iterator[None]:
    """Within, the unembedding is given the last position of each row, so that `logits` are (row, token).

    `logits_to_keep=1` hands PyTorch a slice of three dimensions: it makes a product with the whole matrix for each row
    of the batch, and under oneDNN a copy of the matrix as well.
    """

    def last(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (args[0][:, -1].contiguous(),)

    with removing([family.module(model, family.unembedding).register_forward_pre_hook(in_this_thread(last))]):
        yield
