"""Tokens that features inherit along edges used on a corpus: edges of positive TWERA, layer by layer."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import duckdb
import numpy as np

from interp.descriptions.wiring import Wire
from interp.sparse import FeatureTokens, feature_tokens, ranks
from interp.weightlens.propagation import Edges, inherit
from interp.weightlens.settings import Compat
from storage.catalog.database import open_catalog
from storage.catalog.parts import read_parts, write_part
from storage.checkpoints import open_checkpoint
from storage.store import ShardKey, Store, shards
from tasks.shard_task import shard_task

VERSION = 1
"""Raise it when other tokens would be inherited from the same edges."""

TABLE = "inherited_tokens"

USED = "checkpoint_id = ? AND corpus_id = ? AND target_layer = ? AND twera_low > 0"
"""Edges that count: those whose TWERA is certainly positive. If the target is active in one document only, there is no
interval, and so no edge."""

N_UPSTREAM = 3
"""Largest number of earlier features that a description names."""


@dataclass(frozen=True)
class WiringJob:
    """The co-activation along which tokens are inherited."""

    checkpoint_id: str
    corpus_id: str
    """The corpus id in the tables."""
    recipe: str
    shard_size: int
    compat: Compat | None
    """The single-token activations used by WeightLens for validation."""


@shard_task("wire", "wire {key.name}")
def wire_shard(store: Store, job: WiringJob, key: ShardKey) -> ShardKey:
    """Pass a shard's features the validated tokens of the features that drive them on the corpus, if they also validate
    on the features themselves. The lower layers must be finished.

    Memory: the shard's edges and single-token activations, and one earlier layer's validated tokens.
    """
    path = store.part(TABLE, key)
    if path.exists():
        return key
    with open_catalog(store.catalog) as connection:
        edges = _edges(connection, job, key)
        direct = _direct(connection, job.checkpoint_id, key)
    checkpoint = open_checkpoint(store, job.checkpoint_id)
    single_token = checkpoint.single_token(key.layer, key.start, key.stop, job.compat)
    target, layer, feature, twera = (edges[name] for name in ("target", "source_layer", "source_feature", "twera"))
    found = inherit(
        Edges(target - key.start, layer, feature, twera.astype(np.float32)),
        partial(_validated, store, job, checkpoint.d_transcoder),
        single_token,
        direct,
    )
    known = {edge: at for at, edge in enumerate(zip(target.tolist(), layer.tolist(), feature.tolist(), strict=True))}
    found_target = found.target + key.start
    credited = zip(found_target.tolist(), found.source_layer.tolist(), found.source_feature.tolist(), strict=True)
    by = np.array([known[edge] for edge in credited], np.int64)
    columns = {
        "checkpoint_id": job.checkpoint_id,
        "corpus_id": job.corpus_id,
        "layer": key.layer,
        "feature": found_target.astype(np.int32),
        "rank": ranks(found.target),
        "token_id": found.token,
        "activation": found.activation,
        "source_layer": found.source_layer.astype(np.int16),
        "source_feature": found.source_feature.astype(np.int32),
        **{name: edges[name][by] for name in ("twera", "twera_low", "twera_high", "n_coactive")},
    }
    write_part(path, TABLE, columns, len(found.target))
    return key


def _edges(connection: duckdb.DuckDBPyConnection, job: WiringJob, key: ShardKey) -> dict[str, np.ndarray]:
    query = f"""
        SELECT target_feature AS target, source_layer, source_feature, twera, twera_low, twera_high, n_coactive
        FROM feature_edges WHERE {USED} AND target_feature >= ? AND target_feature < ? ORDER BY ALL"""
    found = connection.execute(query, [job.checkpoint_id, job.corpus_id, key.layer, key.start, key.stop]).fetchnumpy()
    whole = {name: found[name].astype(np.int64) for name in ("target", "source_layer", "source_feature", "n_coactive")}
    return {**whole, **{name: np.asarray(found[name]) for name in ("twera", "twera_low", "twera_high")}}


def _direct(connection: duckdb.DuckDBPyConnection, checkpoint_id: str, key: ShardKey) -> FeatureTokens:
    """A shard's own validated candidates, with features counted from the shard's start."""
    query = """
        SELECT feature, token_id, activation FROM token_candidates
        WHERE checkpoint_id = ? AND layer = ? AND validated AND side = 'input' AND source_layer IS NULL
          AND feature >= ? AND feature < ?"""
    found = connection.execute(query, [checkpoint_id, key.layer, key.start, key.stop]).fetchnumpy()
    feature, token = (found[name].astype(np.int64) for name in ("feature", "token_id"))
    return feature_tokens(feature - key.start, token, np.asarray(found["activation"], np.float32), key.stop - key.start)


@lru_cache(maxsize=8)
def _validated(store: Store, job: WiringJob, d_transcoder: int, layer: int) -> FeatureTokens:
    """All validated tokens of an earlier layer, own and inherited; cached, since every shard of the layers above needs
    them."""
    with open_catalog(store.catalog) as connection:
        own = _direct(connection, job.checkpoint_id, ShardKey("", layer, 0, d_transcoder))
    parts = [store.part(TABLE, key) for key in shards(job.recipe, layer, d_transcoder, job.shard_size)]
    table = read_parts(parts, ["feature", "token_id", "activation"])
    feature, token, activation = (table[name].to_numpy() for name in ("feature", "token_id", "activation"))
    return feature_tokens(
        np.concatenate([np.repeat(np.arange(d_transcoder), np.diff(own.indptr)), feature]),
        np.concatenate([own.token, token]),
        np.concatenate([own.value, activation.astype(np.float32)]),
        d_transcoder,
    )


class InUse(NamedTuple):
    """The tokens and edges of a feature that are used on a corpus."""

    tokens: tuple[str, ...] = ()
    """Its validated tokens, own and inherited, the strongest first."""
    wires: tuple[Wire, ...] = ()
    """Its strongest edges."""


def in_use(
    store: Store, connection: duckdb.DuckDBPyConnection, job: WiringJob, key: ShardKey, features: Sequence[int], n: int
) -> dict[int, InUse]:
    """The tokens and edges of some features of a finished shard, with at most `n` tokens each. Features without an edge
    that counts are left out, since their description is that from weights."""
    of = [job.checkpoint_id, job.corpus_id, key.layer]
    query = f"""
        SELECT target_feature, source_layer, source_feature, n_coactive FROM feature_edges
        WHERE {USED} AND target_feature IN (SELECT unnest(?))
        QUALIFY row_number() OVER (PARTITION BY target_feature ORDER BY twera DESC, source_layer, source_feature) <= ?
        ORDER BY target_feature, twera DESC, source_layer, source_feature"""
    wires: dict[int, list[Wire]] = defaultdict(list)
    for target, *edge in connection.execute(query, [*of, list(features), N_UPSTREAM]).fetchall():
        wires[target].append(Wire(*edge))
    part = read_parts([store.part(TABLE, key)], ["feature", "token_id", "activation"])
    query = """
        WITH mine AS (
            SELECT feature, token_id, activation FROM inherited WHERE feature IN (SELECT unnest($features))
            UNION ALL
            SELECT feature, token_id, activation FROM token_candidates
            WHERE checkpoint_id = $checkpoint AND layer = $layer AND validated AND side = 'input'
              AND source_layer IS NULL AND feature IN (SELECT unnest($features))
        )
        SELECT feature, t.text FROM mine JOIN tokens t ON t.checkpoint_id = $checkpoint AND t.token_id = mine.token_id
        QUALIFY row_number() OVER (PARTITION BY feature ORDER BY activation DESC, mine.token_id) <= $n
        ORDER BY feature, activation DESC, mine.token_id"""
    connection.register("inherited", part)
    asked = {"checkpoint": job.checkpoint_id, "layer": key.layer, "features": list(wires), "n": n}
    tokens: dict[int, list[str]] = defaultdict(list)
    for feature, text in connection.execute(query, asked).fetchall():
        tokens[feature].append(text)
    connection.unregister("inherited")
    return {feature: InUse(tuple(tokens[feature]), tuple(edges)) for feature, edges in wires.items()}
