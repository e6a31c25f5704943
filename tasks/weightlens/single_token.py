"""The features that every token alone activates: blocks of the vocabulary through the model, then sorted by feature."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from interp.activations.encoding import Encoder, find_active
from interp.products import fast_products
from interp.projection import FLOAT32, Arithmetic
from interp.sparse import feature_tokens
from interp.weightlens.settings import AUTHORS_BOS, Compat
from interp.weightlens.single_token import single_token_inputs
from storage.checkpoints import Checkpoint, open_checkpoint, single_token_path, write_single_token
from storage.checksums import NAME, UNSTAMPED, check_file, stamp
from storage.store import Store, whole_file
from tasks.device_memory import turn_on
from tasks.loaded_models import forget_model, loaded_encoder, loaded_model
from tasks.shard_task import shard_task

TOKENS_PER_BLOCK = 2048
"""Vocabulary entries in a task."""

ENTRY_FIELDS = ("token", "feature", "value")
"""Arrays of a layer's active features in a block."""


@dataclass(frozen=True)
class SingleTokenJob:
    """The model and how it is run."""

    checkpoint_id: str
    model_path: Path
    compat: Compat | None
    arithmetic: Arithmetic


@shard_task("single-token-block", "single tokens {start}-{stop}")
def single_token_block(store: Store, job: SingleTokenJob, start: int, stop: int) -> int:
    """Run a block of the vocabulary, a token at a time, and store the active features of layers that are not finished.

    Memory: the model, one encoder, the inputs of the block at every layer, and its active pairs, 12 bytes each.
    """
    checkpoint_id, compat = job.checkpoint_id, job.compat
    path = _block_path(store, checkpoint_id, start, compat)
    checkpoint = open_checkpoint(store, checkpoint_id)
    gathered = {layer: single_token_path(store, checkpoint_id, layer, compat).exists() for layer in checkpoint.layers}
    layers = [layer for layer, is_there in gathered.items() if not is_there]
    if path.exists() or not layers:
        return start
    folder, model = loaded_model(job.model_path, job.arithmetic.device, dtype=job.arithmetic.dtype)
    bos = checkpoint.bos if compat is None else AUTHORS_BOS
    with turn_on(job.arithmetic.device), fast_products(checkpoint.attributes.d_model):
        inputs = single_token_inputs(
            model, folder.family, checkpoint.hooks, checkpoint.n_layers, range(start, stop), bos
        )
        position = np.arange(start, stop, dtype=np.int32)
        arrays = {}
        for layer in layers:
            entries = find_active(_encoder(checkpoint, layer, compat, job.arithmetic.device), inputs[layer], position)
            arrays.update({f"{layer}.{name}": column for name, column in zip(ENTRY_FIELDS, entries, strict=True)})
    with whole_file(path) as partial:
        save_file(arrays, partial, {NAME: UNSTAMPED})
        stamp(partial)
    return start


def _encoder(checkpoint: Checkpoint, layer: int, compat: Compat | None, device: str) -> Encoder:
    """A layer's encoder; for `compat: authors`, as if nothing were subtracted from its input."""
    if device == "cpu":
        encoder = checkpoint.encoder(layer)
    else:  # cached on the device for the next block
        encoder = loaded_encoder(checkpoint, layer, FLOAT32._replace(device=device))
    subtracted = checkpoint.vector(layer, "subtracted")
    if compat is None or subtracted is None:
        return encoder
    return replace(encoder, b_enc=encoder.b_enc + encoder.W_enc @ subtracted.float().to(device))


@shard_task("single-token-layer", "single tokens L{layer:02d}")
def single_token_layer(store: Store, job: SingleTokenJob, layer: int, starts: Sequence[int]) -> int:
    """Gather one layer's activations from all blocks, by feature. Memory: that layer's active pairs, 16 bytes each."""
    checkpoint_id, compat = job.checkpoint_id, job.compat
    forget_model()  # every block has been run, and the next steps need the memory
    if not single_token_path(store, checkpoint_id, layer, compat).exists():
        blocks = [_read_block(_block_path(store, checkpoint_id, start, compat), layer) for start in starts]
        token, feature, value = (np.concatenate(column) for column in zip(*blocks, strict=True))
        found = feature_tokens(feature, token, value, n_features=open_checkpoint(store, checkpoint_id).d_transcoder)
        write_single_token(store, checkpoint_id, layer, found, compat)
    return layer


def _read_block(path: Path, layer: int) -> list[np.ndarray]:
    check_file(path)
    with safe_open(path, "numpy") as block:
        return [block.get_tensor(f"{layer}.{name}") for name in ENTRY_FIELDS]


def drop_single_token_blocks(store: Store, checkpoint_id: str, starts: Sequence[int], compat: Compat | None) -> None:
    """Remove the blocks once every layer is gathered."""
    for start in starts:
        _block_path(store, checkpoint_id, start, compat).unlink(missing_ok=True)


def _block_path(store: Store, checkpoint_id: str, start: int, compat: Compat | None) -> Path:
    return single_token_path(store, checkpoint_id, 0, compat).parent / f"block-{start:07d}.safetensors"
