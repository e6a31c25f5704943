"""Run a model, and record or replace what its dictionaries of features read and reconstruct."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import get_ident
from typing import Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interp.families import Family

MlpInput = Literal["resid_mid", "mlp_in_normalized", "mlp_in"]
"""The place that a transcoder reads."""
MlpOutput = Literal["mlp_out", "mlp_out_normed"]
"""The output that a transcoder reconstructs."""
Place = Literal["resid_pre", "resid_post", "attn_out", MlpOutput]
"""The place that an autoencoder reads and reconstructs."""
InputHook = Literal[MlpInput, Place]
OutputHook = Place


class Hooks(NamedTuple):
    """Where features read and which output their sum reconstructs; part of a checkpoint's identity, never guessed.

    A transcoder reads the input of an MLP: `resid_mid` is the residual stream before the MLP's norm,
    `mlp_in_normalized` the same after the norm's division but before its weight and bias, `mlp_in` what the MLP module
    receives. It reconstructs the MLP's output: `mlp_out` is what the MLP module returns, `mlp_out_normed` the same
    after the post-MLP norm of Gemma-2 and -3.

    An autoencoder reads and reconstructs one place: an MLP's output, `attn_out`, which is what the attention adds to
    the residual stream, or that stream before a block (`resid_pre`) or after it (`resid_post`).
    """

    feature_input: InputHook
    feature_output: OutputHook

    @property
    def rebuilds(self) -> bool:
        """Whether this is an autoencoder, which reconstructs the place that it reads."""
        return self.feature_input == self.feature_output

    @property
    def reads_stream(self) -> bool:
        """Whether features read the residual stream, directly or through a norm, so that token embeddings and the
        outputs of earlier layers reach them linearly. Other features read only the output of one attention or MLP."""
        return not self.rebuilds or self.feature_input in ("resid_pre", "resid_post")

    @property
    def behind_norm(self) -> bool:
        """Whether a norm divides the residual stream before features read it."""
        return self.feature_input in ("mlp_in", "mlp_in_normalized")


class HookedModel(NamedTuple):
    """A model, its family, and the places that its features read and reconstruct."""

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
    """A context at whose end the hooks are removed."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def in_this_thread(hook: Callable[..., T]) -> Callable[..., T | None]:
    """Make a hook that acts only in the thread that made it, since tasks in threads share one model."""
    me = get_ident()
    return lambda *args: hook(*args) if get_ident() == me else None


def vectors_of(output: Tensor | tuple[Tensor, *tuple[object, ...]]) -> Tensor:
    """The vectors in a module's output; some modules return other things as well (attention: its patterns)."""
    return output if isinstance(output, Tensor) else output[0]


def on_place(family: Family, block: nn.Module, place: Place, see: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Call `see` with the value at a place each time the block runs; unless it returns None, its result replaces that
    value.

    Raises:
        ValueError: the family has no such place.
    """
    if place == "resid_pre":
        return on_block_input(block, see)

    def hook(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, *tuple[object, ...]]) -> object:
        new = see(vectors_of(output))
        return new if new is None or isinstance(output, Tensor) else (new, *output[1:])

    return _module_at(family, block, place).register_forward_hook(in_this_thread(hook))


def _module_at(family: Family, block: nn.Module, place: Place) -> nn.Module:
    """The module whose output is at a place."""
    if place == "resid_post":
        return block
    if place == "attn_out":
        return family.module(block, family.attention_output_norm or family.attention)
    if place == "mlp_out":
        return family.module(block, family.mlp)
    if family.mlp_output_norm is None:
        raise ValueError(f"feature_output_hook mlp_out_normed: {family.model_type} has no norm after its MLP")
    return family.module(block, family.mlp_output_norm)


def on_feature_output(
    family: Family, block: nn.Module, hooks: Hooks, see: Callable[[Tensor], Tensor | None]
) -> RemovableHandle:
    """Like `on_place`, at the place that the sum of features reconstructs."""
    return on_place(family, block, hooks.feature_output, see)


def on_feature_input(
    family: Family, block: nn.Module, hooks: Hooks, receive: Callable[[Tensor], None]
) -> RemovableHandle:
    """Call `receive` with what features read each time the block runs."""
    if hooks.rebuilds:
        return on_place(family, block, hooks.feature_output, lambda x: receive(x.float()))
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

    def keep_output(layer: int) -> Callable[[Tensor], None]:
        def see(output: Tensor) -> None:
            receive(layer, 1, output.float())
            if layer == last:
                raise EndOfPass

        return see

    handles = []
    for layer in layers:
        handles.append(on_feature_input(family, blocks[layer], hooks, lambda x, at=layer: receive(at, 0, x)))
        handles.append(on_feature_output(family, blocks[layer], hooks, keep_output(layer)))
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


def on_block_input(block: nn.Module, change: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Change the residual stream before a block reads it, unless `change` returns None; in this thread only."""

    @in_this_thread  # outermost: while one thread registers it, another may call it without the keywords
    def hook(
        _module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        hidden = args[0] if args else kwargs["hidden_states"]
        assert isinstance(hidden, Tensor)
        new = change(hidden)
        new = hidden if new is None else new
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

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
    """A context in which the unembedding gets only the last position of each row, so that `logits` are (row, token).

    `logits_to_keep=1` would pass PyTorch a three-dimensional slice, for which it makes one product with the whole
    matrix for each row of the batch, and under oneDNN a copy of the matrix as well.
    """

    def last(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (args[0][:, -1].contiguous(),)

    with removing([family.module(model, family.unembedding).register_forward_pre_hook(in_this_thread(last))]):
        yield
