"""Run a model with changes, by hooks: attention, norms and MLPs above a change act on the changed stream."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interp.capture import Hooks, in_this_thread, on_feature_input, on_feature_output, removing
from interp.families import Family
from interp.interventions.changes import Changes, HeadChange, LayerFeatures, activations_of, decoders_of
from interp.transcoder import Transcoder


@dataclass(frozen=True)
class SteerableModel:
    """A model whose features can be changed."""

    model: nn.Module
    family: Family
    hooks: Hooks
    transcoder: Callable[[int], Transcoder]
    """Gives a layer's transcoder in float32; called once for each run."""

    @property
    def device(self) -> torch.device:
        """The device of the model's weights."""
        return next(self.model.parameters()).device


class Progress:
    """How many tokens the model has read in earlier passes, whose keys and values it keeps."""

    def __init__(self) -> None:
        self.first = 0


@contextmanager
def changing(steerable: SteerableModel, changes: Changes, progress: Progress | None = None) -> Iterator[None]:
    """A context in which the model runs with these changes.

    A feature's change adds `(new − activation) · W_dec[feature]` where the MLP's output enters the residual stream, so
    that the feature's own write is replaced and the rest of the MLP's output stays. For a cross-layer transcoder, its
    writes to later layers change likewise if the later decoders are there. Memory: a copy of the transcoder's input for
    each change, and for TopK all its activations.
    """
    progress = progress or Progress()
    blocks = steerable.family.block_modules(steerable.model)
    handles: list[RemovableHandle] = []
    for layer in changes.layers:
        features = changes.features_of(layer, steerable.device)
        if features is not None:
            handles += _feature_hooks(steerable, blocks[layer:], steerable.transcoder(layer), features, progress)
        heads = list(changes.heads_of(layer))
        if heads:
            attention = steerable.family.module(blocks[layer], steerable.family.attention)
            output = steerable.family.module(attention, steerable.family.output)
            n_heads = steerable.family.n_heads(steerable.model)
            handles.append(output.register_forward_pre_hook(in_this_thread(_head_hook(heads, n_heads, progress))))
    with removing(handles):
        yield


def _feature_hooks(
    steerable: SteerableModel,
    blocks: list[nn.Module],
    transcoder: Transcoder,
    features: LayerFeatures,
    progress: Progress,
) -> Iterator[RemovableHandle]:
    moved: list[Tensor] = []

    def measure(x: Tensor) -> None:
        moved[:] = [features.moved(activations_of(transcoder, features.feature, x[features.row]), progress.first)]

    def adding(decoders: Float[Tensor, "n d_model"]) -> Callable[[Tensor], Tensor]:
        def see(output: Tensor) -> Tensor:
            change = torch.zeros_like(output, dtype=torch.float32)
            change.index_add_(0, features.row, moved[0][..., None] * decoders[:, None])
            return output + change.to(output.dtype)

        return see

    yield on_feature_input(steerable.family, blocks[0], steerable.hooks, measure)
    for block, decoders in zip(blocks, decoders_of(transcoder, features.feature), strict=False):
        yield on_feature_output(steerable.family, block, steerable.hooks, adding(decoders))


def _head_hook(
    heads: list[HeadChange], n_heads: int, progress: Progress
) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        mixed = args[0].unflatten(2, (n_heads, -1)).clone()
        for one in heads:
            start, stop = max(0, one.start - progress.first), max(0, one.stop - progress.first)
            at = mixed[one.row, start:stop, one.head]
            at *= one.scale
            if one.offset is not None:
                at += one.offset.to(at.dtype)
        return (mixed.flatten(2), *args[1:])

    return hook
