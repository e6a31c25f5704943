"""WeightLens, one shard at a time: single-token activations, projections, propagation and words."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64
from safetensors.numpy import load_file, save_file
from torch import Tensor

from interp.projection import Outliers, Projection, project
from interp.sparse import FeatureTokens, feature_tokens, ranks
from interp.weightlens.coordinates import seen_through
from interp.weightlens.description import Token, word_list
from interp.weightlens.propagation import Edges, Inherited, inherit
from interp.weightlens.settings import WeightLensSettings, WordingSettings
from interp.weightlens.single_token import active_features, single_token_inputs
from storage.catalog import mark_loaded, open_catalog, replace_rows
from storage.checkpoints import Checkpoint, open_checkpoint, single_token_path, write_single_token
from storage.parts import read_parts, write_part
from storage.runs import now
from storage.store import ShardKey, Store, shards, whole_file
from storage.tiles import TileCache
from tasks.ingest import tokens_part
from tasks.models import loaded_model
from tasks.shard_task import shard_task

COLUMNS = TileCache(max_bytes=1_200_000_000)
"""Embeddings and decoders that the shards of this process score against. GPT-2-small's fit, larger ones stream."""

VERSION = 1
"""Bump when the same weights and settings would give other candidates, edges or inherited tokens."""

WORDING_VERSION = 1
"""Bump when the same tokens would be put into other words."""


# Single-token activations: blocks of the vocabulary through the model, then turned round by feature.


@shard_task("single-token-block", "single tokens {start}-{stop}")
def single_token_block(store: Store, checkpoint_id: str, model_path: Path, start: int, stop: int) -> int:
    """Run a block of the vocabulary, a token at a time, and keep every layer's active features."""
    path = _block_path(store, checkpoint_id, start)
    checkpoint = open_checkpoint(store, checkpoint_id)
    layers = range(checkpoint.n_layers)
    if path.exists() or all(single_token_path(store, checkpoint_id, layer).exists() for layer in layers):
        return start
    folder, model = loaded_model(model_path)
    inputs = single_token_inputs(
        model, folder.family, checkpoint.hooks, checkpoint.n_layers, range(start, stop), checkpoint.bos
    )
    arrays = {}
    for layer, found in active_features(inputs, start, checkpoint.transcoder, layers):
        arrays[f"{layer}.feature"] = found.feature.astype(np.int32)
        arrays[f"{layer}.token"] = found.token.astype(np.int32)
        arrays[f"{layer}.value"] = found.value
    with whole_file(path) as partial:
        save_file(arrays, partial)
    return start


@shard_task("single-token-layer", "single tokens L{layer:02d}")
def single_token_layer(store: Store, checkpoint_id: str, layer: int, starts: Sequence[int]) -> int:
    """Gather one layer's activations from all blocks, by feature. Memory: that layer's active pairs, 16 bytes each."""
    if not single_token_path(store, checkpoint_id, layer).exists():
        blocks = [load_file(_block_path(store, checkpoint_id, start)) for start in starts]
        columns = (np.concatenate([b[f"{layer}.{name}"] for b in blocks]) for name in ("feature", "token", "value"))
        found = feature_tokens(*columns, n_features=open_checkpoint(store, checkpoint_id).d_transcoder)
        write_single_token(store, checkpoint_id, layer, found)
    return layer


def drop_single_token_blocks(store: Store, checkpoint_id: str, starts: Sequence[int]) -> None:
    """Remove the blocks once every layer has been gathered."""
    for start in starts:
        _block_path(store, checkpoint_id, start).unlink(missing_ok=True)


def _block_path(store: Store, checkpoint_id: str, start: int) -> Path:
    return store.checkpoint(checkpoint_id) / "single_token" / f"block-{start:07d}.safetensors"


# Projections: candidates of both sides and tails, and edges.


@shard_task("weightlens", "weightlens {key.name}")
def project_shard(
    store: Store, checkpoint_id: str, key: ShardKey, settings: WeightLensSettings, screen: bool
) -> ShardKey:
    """Score a shard's features against tokens and earlier features; keep and validate what stands out.

    `screen` does it by way of bfloat16, with the same result.
    """
    candidates_path, edges_path = store.part("token_candidates", key), store.part("feature_edges", key)
    if candidates_path.exists() and edges_path.exists():
        return key
    checkpoint = open_checkpoint(store, checkpoint_id)
    encoder, decoder = _directions(checkpoint, key, settings.fold_norms)
    tokens = [
        (side, _against_tokens(checkpoint, rows, name, settings, screen))
        for side, rows, name in (("input", encoder, "W_E"), ("output", decoder, "W_U"))
    ]
    _write_candidates(candidates_path, checkpoint, key, tokens)
    _write_edges(edges_path, checkpoint, key, _upstream(checkpoint, key, encoder, settings, screen))
    return key


def _directions(
    checkpoint: Checkpoint, key: ShardKey, fold_norms: bool
) -> tuple[Float32[Tensor, "shard d_model"], Float32[Tensor, "shard d_model"]]:
    """What a shard's encoders read in the residual stream, and what its decoders write to the final norm's output."""
    W_enc = checkpoint.rows(key.layer, "W_enc", key.start, key.stop).float()
    W_dec = checkpoint.rows(key.layer, "W_dec", key.start, key.stop).float()
    if not fold_norms:
        return W_enc, W_dec
    centred = checkpoint.attributes["norms_centred"]
    behind_norm = checkpoint.hooks.feature_input != "resid_mid"
    encoder = seen_through(W_enc, checkpoint.vector(key.layer, "read_weight"), centred and behind_norm)
    write_weight, final_weight = checkpoint.vector(key.layer, "write_weight"), checkpoint.vector(None, "final_weight")
    assert final_weight is not None
    if write_weight is not None:
        W_dec = W_dec * write_weight
    # The logits read the final norm's output: what W_U sees of a direction is its centred, weighted part.
    return encoder, seen_through(W_dec, None, centred) * final_weight


def _against_tokens(
    checkpoint: Checkpoint,
    rows: Float32[Tensor, "shard d_model"],
    name: str,
    settings: WeightLensSettings,
    screen: bool,
) -> Projection:
    n_tokens = checkpoint.n_tokens
    return project(
        rows,
        lambda: COLUMNS.tiles(checkpoint, None, name, n_tokens),
        n_tokens,
        mode=settings.mode,
        pool=settings.token_pool,
        threshold=settings.z_tokens,
        screen=screen,
    )


def _write_candidates(path: Path, checkpoint: Checkpoint, key: ShardKey, sides: list[tuple[str, Projection]]) -> None:
    single_token = checkpoint.single_token(key.layer, key.start, key.stop)
    columns: dict[str, list[np.ndarray]] = {}
    for side, projection in sides:
        for sign, found in ((1, projection.positive), (-1, projection.negative)):
            n = len(found.row)
            activation = validated = np.full(n, None, object)
            if side == "input":
                activation = single_token.look_up(found.row, found.column).astype(object)
                validated = activation > 0 if sign == 1 else validated
            rows = {
                "feature": found.row + key.start,
                "side": np.full(n, side, object),
                "sign": np.full(n, sign, np.int8),
                "rank": ranks(found.row),
                "token_id": found.column,
                "score": found.score,
                "z_score": found.z_score,
                "activation": activation,
                "validated": validated,
            }
            for name, values in rows.items():
                columns.setdefault(name, []).append(values)
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    whole = {"checkpoint_id": checkpoint.checkpoint_id, "layer": key.layer, **joined}
    write_part(path, "token_candidates", whole, len(joined["feature"]))


def _upstream(
    checkpoint: Checkpoint,
    key: ShardKey,
    encoder: Float32[Tensor, "shard d_model"],
    settings: WeightLensSettings,
    screen: bool,
) -> list[tuple[int, Outliers]]:
    """Earlier layers with the features that stand out among their virtual weights to the shard's features."""
    found = []
    for source in settings.upstream_layers(key.layer):
        write_weight = checkpoint.vector(source, "write_weight") if settings.fold_norms else None
        projection = project(
            encoder if write_weight is None else encoder * write_weight,
            lambda source=source: COLUMNS.tiles(checkpoint, source, "W_dec", checkpoint.d_transcoder),
            checkpoint.d_transcoder,
            mode=settings.mode,
            pool=settings.feature_pool,
            threshold=settings.z_features,
            screen=screen,
            negative=False,
        )
        found.append((source, projection.positive))
    return found


def _write_edges(path: Path, checkpoint: Checkpoint, key: ShardKey, found: list[tuple[int, Outliers]]) -> None:
    n = sum(len(outliers.row) for _, outliers in found)

    def column(name: str) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.float32), *(getattr(outliers, name) for _, outliers in found)])

    columns = {
        "checkpoint_id": checkpoint.checkpoint_id,
        "source_layer": np.concatenate([np.zeros(0, int), *(np.full(len(o.row), at) for at, o in found)]).astype(
            np.int16
        ),
        "source_feature": column("column").astype(np.int32),
        "target_layer": key.layer,
        "target_feature": (column("row") + key.start).astype(np.int32),
        "virtual_weight": column("score").astype(np.float32),
        "z_score": column("z_score"),
    }
    write_part(path, "feature_edges", columns, n)


# Propagation and words.


@shard_task("propagate", "propagate {key.name}")
def propagate_shard(
    store: Store,
    checkpoint_id: str,
    key: ShardKey,
    projected: ShardKey,
    shard_size: int,
    wording: WordingSettings,
) -> ShardKey:
    """Give a shard's features the tokens they inherit, and put all their tokens into words.

    `key` carries the recipe of this step and `projected` that of the candidates and edges it starts from.
    """
    tables = ("token_candidates", "descriptions", "failures")
    if all(store.part(table, key).exists() for table in tables):
        return key
    checkpoint = open_checkpoint(store, checkpoint_id)
    columns = ["feature", "side", "sign", "token_id", "score", "activation", "validated"]
    candidates = read_parts([store.part("token_candidates", projected)], columns)
    table = {name: candidates[name].to_numpy(zero_copy_only=False) for name in columns}
    valid = table["validated"] == True  # noqa: E712  an object column of True, False and None
    n = key.stop - key.start
    direct = feature_tokens(
        table["feature"][valid] - key.start, table["token_id"][valid], table["activation"][valid].astype(np.float32), n
    )
    edges = _edges(store, projected, key)

    def validated(layer: int) -> FeatureTokens:
        return _validated(store, layer, projected.recipe, key.recipe, checkpoint.d_transcoder, shard_size)

    inherited = inherit(edges, validated, checkpoint.single_token(key.layer, key.start, key.stop), direct)
    asked = (table["side"] == "input") & (table["sign"] == 1)
    n_candidates = np.bincount(table["feature"][asked] - key.start, minlength=n)
    _write_inherited(store, key, checkpoint_id, inherited, n_candidates)
    promoted = (table["side"] == "output") & (table["sign"] == 1)
    outputs = [table["token_id"][promoted & (table["feature"] == feature)] for feature in range(key.start, key.stop)]
    counts = (n_candidates, np.bincount(edges.target, minlength=n))
    _write_words(store, key, checkpoint_id, (direct, inherited), outputs, counts, wording)
    return key


def _edges(store: Store, projected: ShardKey, key: ShardKey) -> Edges:
    names = ["target_feature", "source_layer", "source_feature", "virtual_weight"]
    table = read_parts([store.part("feature_edges", projected)], names)
    target, layer, feature, weight = (table[name].to_numpy() for name in names)
    return Edges(target.astype(np.int64) - key.start, layer.astype(np.int64), feature.astype(np.int64), weight)


def _validated(
    store: Store, layer: int, projected: str, propagated: str, d_transcoder: int, shard_size: int
) -> FeatureTokens:
    """All validated tokens of an earlier layer, direct and inherited."""
    recipes = (projected, propagated)
    parts = [store.part("token_candidates", k) for r in recipes for k in shards(r, layer, d_transcoder, shard_size)]
    table = read_parts(parts, ["feature", "token_id", "activation", "validated"])
    table = table.filter(table["validated"])
    feature, token, activation = (table[name].to_numpy() for name in ("feature", "token_id", "activation"))
    return feature_tokens(feature, token, activation, d_transcoder)


def _write_inherited(
    store: Store, key: ShardKey, checkpoint_id: str, inherited: Inherited, n_candidates: Int64[np.ndarray, " shard"]
) -> None:
    columns = {
        "checkpoint_id": checkpoint_id,
        "layer": key.layer,
        "feature": inherited.target + key.start,
        "side": "input",
        "sign": 1,
        "rank": n_candidates[inherited.target] + ranks(inherited.target),
        "token_id": inherited.token,
        "score": inherited.weight,
        "activation": inherited.activation,
        "validated": np.ones(len(inherited.target), bool),
        "source_layer": inherited.source_layer.astype(np.int16),
        "source_feature": inherited.source_feature.astype(np.int32),
    }
    write_part(store.part("token_candidates", key), "token_candidates", columns, len(inherited.target))


@cache
def _vocabulary(path: Path) -> list[Token]:
    return [Token(text) for text in read_parts([path], ["text"])["text"].to_pylist()]


def _write_words(
    store: Store,
    key: ShardKey,
    checkpoint_id: str,
    found: tuple[FeatureTokens, Inherited],
    outputs: list[np.ndarray],
    counts: tuple[np.ndarray, np.ndarray],
    wording: WordingSettings,
) -> None:
    """Descriptions of the features that have tokens, failures of those that have none."""
    vocabulary = _vocabulary(tokens_part(store, checkpoint_id))
    described, failed = [], []
    for at, inputs in enumerate(_by_strength(*found)):
        feature = key.start + at
        read = [vocabulary[token] for token in inputs]
        written = [vocabulary[token] for token in outputs[at][: wording.max_words]]
        text = word_list(read, wording)
        if read:
            described.append((feature, "weightlens", text, [token.text for token in read]))
        else:
            failed.append((feature, *_reason(counts[0][at], counts[1][at])))
        if read or written:
            promotes = f"promotes {word_list(written, wording)}" if written else ""
            both = [token.text for token in read + written]
            described.append((feature, "weightlens+out", "; ".join(filter(None, (text, promotes))), both))
    shared = {"checkpoint_id": checkpoint_id, "layer": key.layer}
    columns = dict(zip(("feature", "method", "text", "tokens"), zip(*described, strict=True), strict=False))
    fixed = {"explainer": "tokens", "cluster": -1, "created_at": [now()] * len(described)}
    write_part(store.part("descriptions", key), "descriptions", {**shared, **fixed, **columns}, len(described))
    columns = dict(zip(("feature", "reason", "detail"), zip(*failed, strict=True), strict=False))
    failures = {"stage": "weightlens", "layer": key.layer, **columns}
    write_part(store.part("failures", key), "failures", failures, len(failed))


def _by_strength(direct: FeatureTokens, inherited: Inherited) -> Iterator[list[int]]:
    """Each feature's validated tokens, those that fire it most first."""
    starts = np.searchsorted(inherited.target, np.arange(direct.n_features + 1))
    for at in range(direct.n_features):
        own = slice(direct.indptr[at], direct.indptr[at + 1])
        taken = slice(starts[at], starts[at + 1])
        token = np.concatenate([direct.token[own], inherited.token[taken]])
        value = np.concatenate([direct.value[own], inherited.activation[taken]])
        yield token[np.lexsort((token, -value))].tolist()


def _reason(n_candidates: int, n_edges: int) -> tuple[str, str]:
    if n_candidates == 0 and n_edges == 0:
        return "no_candidates", "no token and no earlier feature stands out among the encoder's projections"
    return (
        "none_validated",
        f"{n_candidates} candidate tokens and {n_edges} upstream features, but no token fires the feature alone",
    )


@shard_task("load-weightlens", "load weightlens")
def load_weightlens(
    store: Store, checkpoint_id: str, run_id: str, projected: Sequence[ShardKey], propagated: Sequence[ShardKey]
) -> str:
    """Load all parts into the catalog, in one transaction, in the place of what an earlier recipe left there."""
    recipe = propagated[0].recipe
    where = {"checkpoint_id": checkpoint_id}
    with open_catalog(store.catalog, write=True) as connection:
        candidates = [store.part("token_candidates", key) for key in (*projected, *propagated)]
        replace_rows(connection, "token_candidates", where, candidates)
        replace_rows(connection, "feature_edges", where, [store.part("feature_edges", key) for key in projected])
        replace_rows(connection, "descriptions", where, [store.part("descriptions", key) for key in propagated])
        of_checkpoint = "run_id IN (SELECT run_id FROM runs WHERE checkpoint_id = ?)"
        connection.execute(f"DELETE FROM failures WHERE stage = 'weightlens' AND {of_checkpoint}", [checkpoint_id])
        failures = [store.part("failures", key) for key in propagated]
        replace_rows(connection, "failures", {"run_id": run_id, "stage": "weightlens"}, failures, run_id)
        mark_loaded(connection, checkpoint_id, "weightlens", recipe)
    return recipe
