"""A model larger than its device: the weights of some layers stay in host memory and are copied for each pass.

While one layer computes, the weights of the next such layer are copied, so the device holds two of these layers at a
time, besides the layers and embeddings that stay there. Passes run one after the other, even if several threads ask for
them.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from threading import RLock
from typing import NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from interp.transfers import copies_to, host_memory

P = ParamSpec("P")
R = TypeVar("R")

ALIGNED = 256
"""Each array of a layer begins at a multiple of this number of bytes."""

N_SLOTS = 2
"""Number of streamed layers that the device has room for at a time: the one that computes, and the next one."""


def layers_to_stream(layer_bytes: Sequence[int], other_bytes: int, max_bytes: int) -> tuple[int, ...]:
    """Choose the layers to stream so that at most `max_bytes` of weights are on the device: as few as possible, and
    spread evenly, so that copies overlap with the computation of the layers that stay.

    Raises:
        ValueError: two layers and the weights outside of layers take more than that.
    """
    n, largest = len(layer_bytes), max(layer_bytes)
    if other_bytes + sum(layer_bytes) <= max_bytes:
        return ()
    for n_streamed in range(1, n + 1):
        streamed = tuple(at for at in range(n) if (at + 1) * n_streamed // n > at * n_streamed // n)
        staying = sum(layer_bytes) - sum(layer_bytes[at] for at in streamed)
        if other_bytes + staying + N_SLOTS * largest <= max_bytes:
            return streamed
    raise ValueError(
        f"embeddings and room for two layers take {(other_bytes + N_SLOTS * largest) / 1e9:.2f} GB; weights may take "
        f"{max_bytes / 1e9:.2f} GB there"
    )


def weight_bytes(blocks: Sequence[nn.Module], model: nn.Module) -> tuple[list[int], int]:
    """The number of bytes of each layer's weights when streamed, and of all other weights."""
    layers = [sum(_aligned(weight.nbytes) for weight in block.parameters()) for block in blocks]
    own = sum(weight.nbytes for block in blocks for weight in block.parameters())
    return layers, sum(weight.nbytes for weight in model.parameters()) - own


class _Place(NamedTuple):
    """One parameter of a layer: its module and name, and where its bytes are in the layer's buffer."""

    module: nn.Module
    name: str
    start: int
    shape: torch.Size
    dtype: torch.dtype


class _Layer:
    """A layer whose weights are in one buffer in host memory."""

    def __init__(self, block: nn.Module, device: torch.device) -> None:
        self.places, self.n_bytes = [], 0
        for module in block.modules():
            for name, weight in module.named_parameters(recurse=False):
                self.places.append(_Place(module, name, self.n_bytes, weight.shape, weight.dtype))
                self.n_bytes += _aligned(weight.nbytes)
        self.waiting = host_memory(self.n_bytes, device)
        for place, own in zip(self.places, self._views(self.waiting), strict=True):
            own.copy_(getattr(place.module, place.name))
            setattr(place.module, place.name, nn.Parameter(own, requires_grad=False))
        self.at_rest = [getattr(place.module, place.name) for place in self.places]

    def put(self, weights: Sequence[nn.Parameter]) -> None:
        """Make the layer compute with these parameters."""
        for place, weight in zip(self.places, weights, strict=True):
            setattr(place.module, place.name, weight)

    def parameters_in(self, memory: Tensor) -> list[nn.Parameter]:
        """The layer's parameters as views of a buffer that contains their bytes."""
        return [nn.Parameter(view, requires_grad=False) for view in self._views(memory)]

    def _views(self, memory: Tensor) -> list[Tensor]:
        return [
            memory[one.start : one.start + one.shape.numel() * one.dtype.itemsize].view(one.dtype).view(one.shape)
            for one in self.places
        ]


class StreamedLayers:
    """Moves a model to a device, except for the weights of some layers, which are copied there whenever the layer is
    called."""

    def __init__(
        self, model: nn.Module, blocks: Sequence[nn.Module], streamed: Sequence[int], device: torch.device
    ) -> None:
        self._lock, self._copies = RLock(), copies_to(device)
        self._layers = [_Layer(blocks[at], device) for at in streamed]
        self._coming: int | None = None
        at_rest = [layer.at_rest for layer in self._layers]
        for layer in self._layers:
            layer.put([nn.Parameter(torch.empty(0), requires_grad=False)] * len(layer.places))
        model.to(device)
        for layer, weights in zip(self._layers, at_rest, strict=True):
            layer.put(weights)
        largest = max(layer.n_bytes for layer in self._layers)
        self._slots = [torch.empty(largest, dtype=torch.uint8, device=device) for _ in range(N_SLOTS)]
        for at, layer in enumerate(streamed):
            blocks[layer].forward = self._with_weights(at, blocks[layer].forward)
        model.forward = self._alone(model.forward)

    def _alone(self, forward: Callable[P, R]) -> Callable[P, R]:
        @wraps(forward)
        def passing(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._lock:
                return forward(*args, **kwargs)

        return passing

    def _with_weights(self, at: int, forward: Callable[P, R]) -> Callable[P, R]:
        layer = self._layers[at]

        @wraps(forward)
        def passing(*args: P.args, **kwargs: P.kwargs) -> R:
            if self._coming != at:  # an earlier pass ended at another layer
                self._begin(at)
            self._copies.finish()
            own = self._slots[0]
            self._begin((at + 1) % len(self._layers))  # after the last layer, the first one for the next pass
            layer.put(layer.parameters_in(own))
            try:
                return forward(*args, **kwargs)
            finally:
                layer.put(layer.at_rest)

        return passing

    def _begin(self, at: int) -> None:
        """Start copying a layer's weights to the slot that was not used last."""
        layer = self._layers[at]
        self._slots.reverse()
        slot = self._slots[0]
        self._copies.after_computing()  # the layer that used this slot may still be computing
        self._copies.begin(lambda: slot[: layer.n_bytes].copy_(layer.waiting, non_blocking=True))
        self._coming = at


def is_streamed(model: nn.Module) -> bool:
    """Whether some of a model's layers are in host memory."""
    return len({weight.device for weight in model.parameters()}) > 1


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNED) * ALIGNED
