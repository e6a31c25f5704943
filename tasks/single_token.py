"""What every token alone activates: blocks of the vocabulary through the model, then turned round by feature."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from interp.sparse import feature_tokens
from interp.transcoder import Encoder
from interp.weightlens.settings import AUTHORS_BOS, Compat
from interp.weightlens.single_token import Activations, active_features, single_token_inputs
from storage.checkpoints import Checkpoint, open_checkpoint, single_token_path, write_single_token
from storage.store import Store, whole_file
from tasks.models import loaded_model
from tasks.shard_task import shard_task

FEATURES_PER_PIECE = 2048
"""Features encoded at once: their activations at some hundred tokens fit the processor's cache."""


@shard_task("single-token-block", "single tokens {start}-{stop}")
def single_token_block(
    store: Store, checkpoint_id: str, model_path: Path, start: int, stop: int, compat: Compat | None, device: str
) -> int:
    """Run a block of the vocabulary, a token at a time, and keep every layer's active features."""
    path = _block_path(store, checkpoint_id, start, compat)
    checkpoint = open_checkpoint(store, checkpoint_id)
    layers = range(checkpoint.n_layers)
    if path.exists() or all(single_token_path(store, checkpoint_id, layer, compat).exists() for layer in layers):
        return start
    folder, model = loaded_model(model_path, device)
    bos = checkpoint.bos if compat is None else AUTHORS_BOS
    inputs = single_token_inputs(model, folder.family, checkpoint.hooks, checkpoint.n_layers, range(start, stop), bos)
    arrays = {}
    for layer in layers:
        found = active_features(inputs[layer], start, _encoders(checkpoint, layer, compat, device))
        arrays.update({f"{layer}.{name}": column for name, column in found._asdict().items()})
    with whole_file(path) as partial:
        save_file(arrays, partial)
    return start


def _encoders(checkpoint: Checkpoint, layer: int, compat: Compat | None, device: str) -> Iterator[tuple[int, Encoder]]:
    """A layer's encoder in pieces, or whole where features compete for a place."""
    width = checkpoint.d_transcoder if checkpoint.attributes["activation"] == "topk" else FEATURES_PER_PIECE
    for start in range(0, checkpoint.d_transcoder, width):
        piece = checkpoint.encoder(layer, start, min(start + width, checkpoint.d_transcoder), subtract=compat is None)
        yield start, piece.on(device)


@shard_task("single-token-layer", "single tokens L{layer:02d}")
def single_token_layer(
    store: Store, checkpoint_id: str, layer: int, starts: Sequence[int], compat: Compat | None
) -> int:
    """Gather one layer's activations from all blocks, by feature. Memory: that layer's active pairs, 16 bytes each."""
    if not single_token_path(store, checkpoint_id, layer, compat).exists():
        blocks = [_read_block(_block_path(store, checkpoint_id, start, compat), layer) for start in starts]
        columns = (np.concatenate(column) for column in zip(*blocks, strict=True))
        found = feature_tokens(*columns, n_features=open_checkpoint(store, checkpoint_id).d_transcoder)
        write_single_token(store, checkpoint_id, layer, found, compat)
    return layer


def _read_block(path: Path, layer: int) -> Activations:
    with safe_open(path, "numpy") as block:
        return Activations(*(block.get_tensor(f"{layer}.{name}") for name in Activations._fields))


def drop_single_token_blocks(store: Store, checkpoint_id: str, starts: Sequence[int], compat: Compat | None) -> None:
    """Remove the blocks once every layer has been gathered."""
    for start in starts:
        _block_path(store, checkpoint_id, start, compat).unlink(missing_ok=True)


def _block_path(store: Store, checkpoint_id: str, start: int, compat: Compat | None) -> Path:
    return single_token_path(store, checkpoint_id, 0, compat).parent / f"block-{start:07d}.safetensors"
