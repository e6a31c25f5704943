"""What every token alone activates: blocks of the vocabulary through the model, then turned round by feature."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from interp.sparse import feature_tokens
from interp.transcoder import Transcoder
from interp.weightlens.settings import AUTHORS_BOS, Compat
from interp.weightlens.single_token import active_features, single_token_inputs
from storage.checkpoints import open_checkpoint, single_token_path, write_single_token
from storage.store import Store, whole_file
from tasks.models import loaded_model
from tasks.shard_task import shard_task


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

    def transcoder(layer: int) -> Transcoder:
        coder = checkpoint.transcoder(layer).on(device)
        return coder if compat is None else coder.without_subtraction()

    arrays = {}
    for layer, found in active_features(inputs, start, transcoder, layers):
        arrays[f"{layer}.feature"] = found.feature.astype(np.int32)
        arrays[f"{layer}.token"] = found.token.astype(np.int32)
        arrays[f"{layer}.value"] = found.value
    with whole_file(path) as partial:
        save_file(arrays, partial)
    return start


@shard_task("single-token-layer", "single tokens L{layer:02d}")
def single_token_layer(
    store: Store, checkpoint_id: str, layer: int, starts: Sequence[int], compat: Compat | None
) -> int:
    """Gather one layer's activations from all blocks, by feature. Memory: that layer's active pairs, 16 bytes each."""
    if not single_token_path(store, checkpoint_id, layer, compat).exists():
        blocks = [load_file(_block_path(store, checkpoint_id, start, compat)) for start in starts]
        columns = (np.concatenate([b[f"{layer}.{name}"] for b in blocks]) for name in ("feature", "token", "value"))
        found = feature_tokens(*columns, n_features=open_checkpoint(store, checkpoint_id).d_transcoder)
        write_single_token(store, checkpoint_id, layer, found, compat)
    return layer


def drop_single_token_blocks(store: Store, checkpoint_id: str, starts: Sequence[int], compat: Compat | None) -> None:
    """Remove the blocks once every layer has been gathered."""
    for start in starts:
        _block_path(store, checkpoint_id, start, compat).unlink(missing_ok=True)


def _block_path(store: Store, checkpoint_id: str, start: int, compat: Compat | None) -> Path:
    return single_token_path(store, checkpoint_id, 0, compat).parent / f"block-{start:07d}.safetensors"
