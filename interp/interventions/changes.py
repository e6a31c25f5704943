"""Changes to a model: features held at values or shifted, heads scaled or replaced, each at some positions."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from interp.transcoder import Transcoder

EVERYWHERE = 1 << 30
"""A position after the last of any sequence."""


class FeatureChange(NamedTuple):
    """A change of a feature in one row of a batch, from position `start` to before `stop`: its activation `a` becomes
    `a + add`, but at least `low` and at most `high`."""

    row: int
    layer: int
    feature: int
    add: float = 0.0
    low: float = -torch.inf
    high: float = torch.inf
    start: int = 0
    stop: int = EVERYWHERE

    def held_at(self, value: float) -> "FeatureChange":
        """The same feature, with its activation held at `value`."""
        return self._replace(add=0.0, low=value, high=value)


class HeadChange(NamedTuple):
    """A change of a head in one row at some positions: its mixed values `z` are written as `scale · z + offset`."""

    row: int
    layer: int
    head: int
    scale: float = 0.0
    offset: Float[Tensor, " d_head"] | None = None
    """None: nothing."""
    start: int = 0
    stop: int = EVERYWHERE


class Changes(NamedTuple):
    """All changes in the rows of a batch. No feature or head of a row is changed twice at one position."""

    features: Sequence[FeatureChange] = ()
    heads: Sequence[HeadChange] = ()

    @property
    def layers(self) -> list[int]:
        """The layers with changes, in order."""
        return sorted({change.layer for change in (*self.features, *self.heads)})

    def features_of(self, layer: int, device: torch.device | str) -> "LayerFeatures | None":
        """The changes of a layer's features, or None."""
        mine = [change for change in self.features if change.layer == layer]
        if not mine:
            return None
        row, _, feature, add, low, high, start, stop = zip(*mine, strict=True)
        whole = (torch.tensor(column, device=device) for column in (row, feature))
        real = (torch.tensor(column, dtype=torch.float32, device=device) for column in (add, low, high))
        ends = (torch.tensor(column, device=device) for column in (start, stop))
        return LayerFeatures(*whole, *real, *ends)

    def heads_of(self, layer: int) -> Iterator[HeadChange]:
        """The changes of a layer's heads."""
        return (change for change in self.heads if change.layer == layer)

    def rows(self, start: int, stop: int) -> "Changes":
        """The changes of some rows, renumbered from 0."""
        return Changes(
            [one._replace(row=one.row - start) for one in self.features if start <= one.row < stop],
            [one._replace(row=one.row - start) for one in self.heads if start <= one.row < stop],
        )


class LayerFeatures(NamedTuple):
    """Changes of one layer's features, as tensors."""

    row: Int64[Tensor, " n"]
    feature: Int64[Tensor, " n"]
    add: Float[Tensor, " n"]
    low: Float[Tensor, " n"]
    high: Float[Tensor, " n"]
    start: Int64[Tensor, " n"]
    stop: Int64[Tensor, " n"]

    def inside(self, first: int, n_pos: int) -> Bool[Tensor, "n n_pos"]:
        """Which of the positions from `first` on are changed."""
        at = first + torch.arange(n_pos, device=self.row.device)
        return (at >= self.start[:, None]) & (at < self.stop[:, None])

    def moved(self, activation: Float[Tensor, "n n_pos"], first: int = 0) -> Float[Tensor, "n n_pos"]:
        """By how much the activations at the positions from `first` on are shifted."""
        new = torch.minimum(torch.maximum(activation + self.add[:, None], self.low[:, None]), self.high[:, None])
        return torch.where(self.inside(first, activation.shape[1]), new - activation, 0)


def activations_of(
    transcoder: Transcoder, feature: Int64[Tensor, " n"], x: Float[Tensor, "n n_pos d_model"]
) -> Float[Tensor, "n n_pos"]:
    """The activations of one feature for each of `n` sequences of transcoder inputs."""
    if transcoder.activation == "topk":
        every = transcoder.encode(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return every.gather(2, feature[:, None, None].expand(-1, x.shape[1], 1)).squeeze(2)
    pre = torch.einsum("bpd,bd->bp", x, transcoder.W_enc[feature]) + transcoder.b_enc[feature][:, None]
    if transcoder.threshold is None:
        return pre.relu()
    return torch.where(pre > transcoder.threshold[feature].clamp(min=0)[:, None], pre, 0)


def decoders_of(transcoder: Transcoder, feature: Int64[Tensor, " n"]) -> list[Float[Tensor, "n d_model"]]:
    """What features write to the MLP output of their own layer and, for a cross-layer transcoder, of those above it."""
    own = [transcoder.W_dec[feature]]
    if transcoder.W_dec_later is None:
        return own
    return own + list(transcoder.W_dec_later[feature].unbind(1))
