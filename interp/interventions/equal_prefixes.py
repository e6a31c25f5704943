"""Rows of a batch that begin with the same tokens share what a model computes below the lowest changed layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interp.capture import in_this_thread, removing

Arguments = tuple[object, ...]
Keywords = dict[str, object]

FINDS_EQUAL_ROWS = ("cpu", "cuda")
"""Kinds of devices on which PyTorch can tell which rows are equal. On Apple's GPUs it cannot."""


@runtime_checkable
class KeptLayer(Protocol):
    """The cache of one layer for the tokens read so far: a layer of transformers' `DynamicCache`."""

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the sequences of the batch with these indices; an index may occur several times."""
        ...


@runtime_checkable
class KeptLayers(Protocol):
    """The caches of all layers: transformers' `DynamicCache`."""

    @property
    def layers(self) -> list[KeptLayer]:
        """Keys and values that were kept, a layer each."""
        ...


class EqualPrefixes:
    """Groups the rows of a batch that have the same tokens so far (a prefix). The layers below the lowest changed layer
    depend on tokens only, so they are computed and cached once for each prefix."""

    def __init__(self, blocks: list[nn.Module], lowest: int) -> None:
        self._blocks, self._lowest = blocks, lowest
        self._prefix: Tensor | None = None
        self._n = 0

    def read(self, tokens: Int64[Tensor, "rows n_new"], kept: KeptLayers | None) -> Int64[Tensor, "prefixes n_new"]:
        """The tokens that the lower layers read next, one row for each prefix. Their caches are put into the same
        order."""
        known = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
        before = known if self._prefix is None else self._prefix
        rows = torch.cat([before[:, None], tokens], 1)
        if rows.device.type not in FINDS_EQUAL_ROWS:
            rows = rows.cpu()
        different, prefix = (one.to(tokens.device) for one in torch.unique(rows, dim=0, return_inverse=True))
        if kept is not None and len(different) != self._n:  # every prefix goes on: as many as before are the same
            for layer in kept.layers[: self._lowest]:
                layer.batch_select_indices(different[:, 0])
        self._prefix, self._n = prefix, len(different)
        return different[:, 1:]

    @contextmanager
    def spread(self) -> Iterator[None]:
        """A context in which the lowest changed layer gets every row, copied from its prefix's output of the layers
        below."""
        with removing([self._hooked(block, at == 0) for at, block in enumerate(self._blocks[self._lowest :])]):
            yield

    def _hooked(self, block: nn.Module, is_lowest: bool) -> RemovableHandle:
        @in_this_thread
        def hook(_module: nn.Module, args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
            stream = args[:1] if args else (kwargs["hidden_states"],)
            (stream,) = map(self._rows, stream) if is_lowest else stream
            rest = {name: self._rows(value) for name, value in kwargs.items() if name != "hidden_states"}
            return (stream, *map(self._rows, args[1:])), rest

        return block.register_forward_pre_hook(hook, with_kwargs=True)

    def _rows(self, value: object) -> object:
        """An argument of a block, such as a mask, with one entry for each row of the batch instead of each prefix."""
        if isinstance(value, tuple):
            return tuple(map(self._rows, value))
        if isinstance(value, Tensor) and value.ndim > 1 and len(value) == self._n:
            return value[self._prefix]
        return value
