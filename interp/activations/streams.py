"""What the transcoders of all layers read at some tokens, in batches that the memory holds."""

from jaxtyping import Bool, Float32, Integer
from torch import Tensor, cat, nn

from interp.capture import Hooks, read_inputs
from interp.families import Family


def transcoder_inputs(
    model: nn.Module,
    family: Family,
    hooks: Hooks,
    n_layers: int,
    tokens: Integer[Tensor, "rows n_pos"],
    kept: Bool[Tensor, "rows n_pos"],
    rows_per_batch: int,
) -> list[Float32[Tensor, "n d_model"]]:
    """Every layer's transcoder input at the kept positions, row after row.

    Where a forward pass does not fit into memory, it is done in halves. Memory: the kept inputs of all layers, and
    the streams of one batch.

    Raises:
        RuntimeError: not even a single row fits.
    """
    pieces: list[list[Tensor]] = [[] for _ in range(n_layers)]
    start = 0
    while start < len(tokens):
        batch = slice(start, start + rows_per_batch)
        try:
            xs = _inputs_at(model, family, hooks, n_layers, tokens[batch], kept[batch])
        except RuntimeError as error:
            if not _out_of_memory(error) or rows_per_batch == 1:
                raise
            rows_per_batch = (min(rows_per_batch, len(tokens) - start) + 1) // 2
            continue
        for layer, x in enumerate(xs):
            pieces[layer].append(x)
        start = batch.stop
    return [cat(xs) for xs in pieces]


def _inputs_at(
    model: nn.Module, family: Family, hooks: Hooks, n_layers: int, tokens: Tensor, kept: Tensor
) -> list[Float32[Tensor, "n d_model"]]:
    xs: list[Tensor] = []
    read_inputs(model, family, tokens, range(n_layers), hooks, lambda _, x: xs.append(x[kept]))
    return xs


def _out_of_memory(error: RuntimeError) -> bool:
    """PyTorch has a class of its own for this on GPUs; on the CPU only the message tells."""
    return "out of memory" in str(error) or "can't allocate memory" in str(error)
