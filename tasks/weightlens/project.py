"""Project a shard's features on tokens and earlier features; store the outliers and validate them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from interp.batches import each_batch
from interp.products import fast_products
from interp.projection import Arithmetic, OutlierRule, Projection, Tiles, joined, project
from interp.sparse import FeatureTokens, ranks
from interp.weightlens.coordinates import fold_norm
from interp.weightlens.settings import WeightLensSettings
from storage.block_cache import BlockCache
from storage.catalog.parts import write_part
from storage.checkpoints import Checkpoint, open_checkpoint
from storage.store import ShardKey, Store
from tasks.device_memory import room_for_cache, turn_on
from tasks.shard_task import shard_task

PROJECTED_TABLES = ("token_candidates", "contribution_totals", "feature_edges")
"""The tables that projecting a shard writes, in this order."""

MAX_COLUMN_BYTES = 1_200_000_000
COLUMN_BLOCKS = BlockCache(MAX_COLUMN_BYTES, lambda device: room_for_cache(device, MAX_COLUMN_BYTES))
"""Embeddings and decoders that the shards of this process score against. GPT-2-small's fit in memory, larger ones are
streamed. On a GPU, as many as fit into a tenth of its memory are copied once and stay."""

VERSION = 1
"""Raise it when the same weights and settings would give other candidates, edges or inherited tokens."""


@dataclass(frozen=True)
class ProjectionJob:
    """What is projected, and how."""

    checkpoint_id: str
    settings: WeightLensSettings
    arithmetic: Arithmetic
    """The device and the way in which products are computed; the results are the same."""


@shard_task("weightlens", "weightlens {key.name}")
def project_shard(store: Store, job: ProjectionJob, key: ShardKey) -> ShardKey:
    """Score a shard's features against tokens and earlier features; store and validate the outliers."""
    if all(store.part(table, key).exists() for table in PROJECTED_TABLES):
        return key
    checkpoint, settings = open_checkpoint(store, job.checkpoint_id), job.settings
    encoder, decoder = _directions(checkpoint, key, settings.fold_norms)
    try:
        with turn_on(job.arithmetic.device), fast_products(checkpoint.attributes.d_model):
            sides = [("input", encoder, "W_E")] if checkpoint.hooks.reads_stream else []
            tokens = [
                (side, _against_tokens(checkpoint, rows, name, job))
                for side, rows, name in (*sides, ("output", decoder, "W_U"))
            ]
            upstream = _upstream(checkpoint, key, encoder, job)
    except OverflowError as error:
        raise ValueError(
            f"layer {key.layer}, feature {key.start + error.args[0]}: its weights are so large that their products "
            "with others are beyond float32"
        ) from None
    single_token = checkpoint.single_token(key.layer, key.start, key.stop, settings.compat)
    _write_candidates(store.part("token_candidates", key), checkpoint, key, tokens, single_token)
    read = [projection for side, projection in tokens if side == "input"] + [projection for _, projection in upstream]
    _write_totals(store.part("contribution_totals", key), checkpoint, key, read)
    _write_edges(store.part("feature_edges", key), checkpoint, key, upstream)
    return key


def _directions(
    checkpoint: Checkpoint, key: ShardKey, fold_norms: bool
) -> tuple[Float32[Tensor, "shard d_model"], Float32[Tensor, "shard d_model"]]:
    """The directions that a shard's encoders read in the residual stream, and that its decoders write to the final
    norm's output."""
    encoder = encoder_directions(checkpoint, key, fold_norms)
    W_dec = checkpoint.written(key.layer, key.start, key.stop).float()
    if not fold_norms:
        return encoder, W_dec
    centred = checkpoint.attributes.norms_centred
    write_weight, final_weight = checkpoint.vector(key.layer, "write_weight"), checkpoint.vector(None, "final_weight")
    assert final_weight is not None
    if write_weight is not None:
        W_dec = W_dec * write_weight
    # The logits read the final norm's output: W_U sees the centred, weighted part of a direction.
    return encoder, fold_norm(W_dec, None, centred) * final_weight


def encoder_directions(checkpoint: Checkpoint, key: ShardKey, fold_norms: bool) -> Float32[Tensor, "shard d_model"]:
    """The directions that a shard's encoders read in the residual stream."""
    W_enc = checkpoint.rows(key.layer, "W_enc", key.start, key.stop).float()
    if not fold_norms:
        return W_enc
    centred = checkpoint.attributes.norms_centred and checkpoint.hooks.behind_norm
    return fold_norm(W_enc, checkpoint.vector(key.layer, "read_weight"), centred)


def reading_source(
    checkpoint: Checkpoint, encoder: Float32[Tensor, "shard d_model"], source: int, fold_norms: bool
) -> Float32[Tensor, "shard d_model"]:
    """What encoders read of an earlier layer's decoders; the product of both is the virtual weight."""
    write_weight = checkpoint.vector(source, "write_weight") if fold_norms else None
    return encoder if write_weight is None else encoder * write_weight


def _against_tokens(
    checkpoint: Checkpoint,
    rows: Float32[Tensor, "shard d_model"],
    name: str,
    job: ProjectionJob,
) -> Projection:
    settings, arithmetic = job.settings, job.arithmetic
    n_tokens = checkpoint.n_tokens
    return _projected(
        rows,
        lambda: COLUMN_BLOCKS.tiles(checkpoint, None, name, n_tokens, arithmetic.device),
        n_tokens,
        OutlierRule(settings.mode, settings.token_pool, settings.z_tokens),
        arithmetic,
    )


def _projected(
    rows: Float32[Tensor, "shard d_model"], tiles: Tiles, n_columns: int, rule: OutlierRule, arithmetic: Arithmetic
) -> Projection:
    """`project` on the device, with fewer rows at once where it has no room for all."""
    there = rows.to(arithmetic.device)

    def run(part: slice) -> Projection:
        try:
            return project(there[part], tiles, n_columns, rule, screen=arithmetic.screen)
        except OverflowError as error:
            raise OverflowError(part.start + error.args[0]) from None

    return joined(list(each_batch("features to project", arithmetic.device, len(rows), len(rows), run)))


def _write_candidates(
    path: Path,
    checkpoint: Checkpoint,
    key: ShardKey,
    sides: list[tuple[str, Projection]],
    single_token: FeatureTokens,
) -> None:
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
    job: ProjectionJob,
) -> list[tuple[int, Projection]]:
    """Earlier layers with the outliers among their features' virtual weights to the shard's features."""
    settings, arithmetic = job.settings, job.arithmetic
    found = []
    for source in checkpoint.attributes.upstream(settings, key.layer):
        rows = reading_source(checkpoint, encoder, source, settings.fold_norms)
        projection = _projected(
            rows,
            lambda source=source: COLUMN_BLOCKS.written(checkpoint, source, key.layer, arithmetic.device),
            checkpoint.d_transcoder,
            OutlierRule(settings.mode, settings.feature_pool, settings.z_features, negative=False),
            arithmetic,
        )
        found.append((source, projection))
    return found


def _write_totals(path: Path, checkpoint: Checkpoint, key: ShardKey, projections: list[Projection]) -> None:
    """Sum up what features read; nothing where they do not read the residual stream."""
    n = key.stop - key.start if projections else 0
    total = np.sum([projection.absolute_sum for projection in projections], axis=0)
    detected = np.sum(
        [np.bincount(p.positive.row, np.abs(p.positive.score.astype(np.float64)), n) for p in projections], axis=0
    )
    columns = {
        "checkpoint_id": checkpoint.checkpoint_id,
        "layer": key.layer,
        "feature": np.arange(key.start, key.start + n),
        "absolute_contribution": total,
        "detected_share": np.divide(detected, total, out=np.zeros(n), where=total > 0),
    }
    write_part(path, "contribution_totals", columns, n)


def _write_edges(path: Path, checkpoint: Checkpoint, key: ShardKey, upstream: list[tuple[int, Projection]]) -> None:
    found = [(layer, projection.positive) for layer, projection in upstream]
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
