"""The transcoder inputs of all layers at some tokens, in batches that fit into memory."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float32, Integer
from torch import Tensor

from interp.batches import in_batches
from interp.capture import HookedModel, read_inputs


def transcoder_inputs(
    hooked: HookedModel,
    n_layers: int,
    tokens: Integer[Tensor, "rows n_pos"],
    kept: Bool[Tensor, "rows n_pos"],
    rows_per_batch: int,
) -> list[Float32[Tensor, "n d_model"]]:
    """Every layer's transcoder input at the kept positions, row after row.

    A forward pass that does not fit into memory is repeated in two halves. Memory: the kept inputs of all layers, and
    the streams of one batch.

    Raises:
        RuntimeError: not even a single row fits.
    """
    xs: list[Tensor] = []
    n_kept, device = int(kept.sum()), next(hooked.model.parameters()).device
    firsts = [0, *kept.sum(1).cumsum(0).tolist()]

    def read(rows: slice) -> None:
        at = kept[rows].flatten().nonzero().squeeze(1)
        read_inputs(hooked, tokens[rows], range(n_layers), _picking(xs, n_kept, at, firsts[rows.start]))

    in_batches("rows of the corpus", device, len(tokens), rows_per_batch, read, tokens.shape[1])
    return xs


def _picking(xs: list[Tensor], n: int, at: Tensor, first: int) -> Callable[[int, Tensor], None]:
    """A callback that copies positions `at` of each layer's input to rows `first` onwards of an array of `n` rows."""

    def receive(layer: int, x: Tensor) -> None:
        if layer == len(xs):
            xs.append(x.new_empty(n, x.shape[-1]))
        torch.index_select(x.flatten(0, 1), 0, at, out=xs[layer][first : first + len(at)])

    return receive
