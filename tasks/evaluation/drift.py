"""Match one layer's features between two checkpoints, and load the matches into the catalog."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from interp.drift import Directions, DriftSettings, correlation, match
from interp.sparse import FeatureTokens
from storage.activations import Block, joined, open_block
from storage.catalog.database import mark_loaded, open_catalog, replace_rows
from storage.catalog.parts import write_part
from storage.checkpoints import Checkpoint, open_checkpoint
from storage.corpora.corpus import corpus_attributes
from storage.store import ShardKey, Store
from tasks.activations.corpus_pass import CorpusPass
from tasks.shard_task import shard_task

TABLE = "feature_matches"

STAGE = "compare-checkpoints"

VERSION = 1
"""Raise it when the same weights and activations would be matched differently."""


@shard_task("match-features", "match L{key.layer:02d}")
def match_layer(
    store: Store,
    checkpoints: tuple[str, str],
    key: ShardKey,
    settings: DriftSettings,
    passes: tuple[CorpusPass, CorpusPass] | None,
    blocks: Sequence[Block],
) -> ShardKey:
    """Match a layer's features; for matched ones, also compare the activations in some blocks of a corpus.

    Memory: the layer's weights in both checkpoints, and its active entries in the blocks, twice, 12 bytes each.
    """
    path = store.part(TABLE, key)
    if path.exists():
        return key
    a, b = (open_checkpoint(store, checkpoint_id) for checkpoint_id in checkpoints)
    found = match(_directions(a, key.layer), _directions(b, key.layer), settings)
    correlations = np.full(len(found.a), np.nan)
    if passes is not None:
        first, second = (
            _active(store, corpus_pass, blocks, key.layer, checkpoint.d_transcoder)
            for corpus_pass, checkpoint in zip(passes, (a, b), strict=True)
        )
        n_positions = sum(open_block(store, passes[0].recipe, block).n_counted for block in blocks)
        correlations = correlation(first, second, found, n_positions)
    died, born = _rest(found.a, a.d_transcoder), _rest(found.b, b.d_transcoder)
    n_lost, n_new = len(died), len(born)
    columns = {
        "layer": key.layer,
        "feature_a": [*found.a.tolist(), *died, *[None] * n_new],
        "feature_b": [*found.b.tolist(), *[None] * n_lost, *born],
        "fate": [*found.fates(settings), *["died"] * n_lost, *["born"] * n_new],
        **{
            name: pa.array(np.concatenate([values, np.full(n_lost + n_new, np.nan)]), from_pandas=True)
            for name, values in (
                ("cosine_enc", found.cosine_enc),
                ("cosine_dec", found.cosine_dec),
                ("activation_correlation", correlations),
            )
        },
    }
    write_part(path, TABLE, columns, len(columns["fate"]))
    return key


def _directions(checkpoint: Checkpoint, layer: int) -> Directions:
    coder = checkpoint.transcoder(layer)
    return Directions(coder.W_enc, coder.W_dec)


def _active(
    store: Store, corpus_pass: CorpusPass, blocks: Sequence[Block], layer: int, d_transcoder: int
) -> FeatureTokens:
    n_pos = corpus_attributes(store, corpus_pass.corpus_id).n_pos
    active = [open_block(store, corpus_pass.recipe, block).features(layer, 0, d_transcoder) for block in blocks]
    return joined(active, [block.start * n_pos for block in blocks])


def _rest(matched: np.ndarray, n: int) -> list[int]:
    return np.setdiff1d(np.arange(n), matched).tolist()


@shard_task("load-drift", "load drift")
def load_drift(store: Store, checkpoints: tuple[str, str], keys: Sequence[ShardKey]) -> str:
    """Load the matches of two checkpoints in one transaction, replacing those with other settings."""
    a, b = checkpoints
    parts: list[Path] = [store.part(TABLE, key) for key in keys]
    with open_catalog(store.catalog, write=True) as connection:
        replace_rows(connection, TABLE, {"checkpoint_a": a, "checkpoint_b": b}, parts)
        mark_loaded(connection, f"{a} {b}", STAGE, keys[0].recipe)
    return keys[0].recipe
