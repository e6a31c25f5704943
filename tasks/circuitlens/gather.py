"""Gather attributed samples by feature: clusters, effects, and how well contributions sum to activations."""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int64

from interp.circuitlens.clusters import NOISE, clustered
from interp.circuitlens.contributors import NONE
from interp.circuitlens.effects import strongest_effects
from interp.circuitlens.kinds import ERROR, HEAD, KINDS, TOKEN
from interp.circuitlens.settings import CircuitLensSettings
from storage.attributions import Attributed, read_attributed
from storage.catalog.parts import Failure, columns_of, write_failures, write_part
from storage.checkpoints import Checkpoint, open_checkpoint
from storage.samples import read_samples, sample_ids
from storage.store import ShardKey, Store
from tasks.circuitlens.head_reasons import write_head_scores
from tasks.circuitlens.job import SIGNED, TABLES, CircuitLensJob
from tasks.circuitlens.token_profiles import read_token_profiles
from tasks.shard_task import shard_task
from tasks.weightlens.project import COLUMN_BLOCKS

NOT_CLUSTERED = NOISE - 1
"""The cluster of a sample that was not attributed, or whose feature has too few samples; null in the catalog."""

Row = dict[str, str | int]
"""Columns with the same value in all rows of a part."""


@shard_task("circuitlens-gather", "circuitlens {key.name}", interpreted=True)
def gather_circuits(store: Store, job: CircuitLensJob, key: ShardKey) -> ShardKey:
    """Cluster each feature's samples and average their effects. Memory: the samples of a shard in the blocks' form."""
    if all(store.part(table, key).exists() for table in TABLES):
        return key
    checkpoint, settings = open_checkpoint(store, job.checkpoint_id), job.settings
    found = read_attributed(job.attributed_paths(store), key)
    shared = {**job.shared, "layer": key.layer}
    tokens = _tokens(found)
    is_compared = settings.clustering == "ncut" and len(tokens) > 0
    profiles = read_token_profiles(checkpoint, key.layer, tokens) if is_compared else None
    labels = np.full(len(found.layer), NOISE)
    cluster_rows: list[tuple[int, int, int, float, list[str], float | None]] = []
    failed: list[Failure] = []
    features, firsts, counts = np.unique(found.feature, return_index=True, return_counts=True)
    for feature, first, n in zip(features.tolist(), firsts, counts, strict=True):
        if n < settings.min_samples:
            detail = f"{n} samples, clusters take {settings.min_samples} (circuitlens.min_samples)"
            failed.append(Failure(feature, "too_few_samples", detail))
            continue
        own = found.at(np.arange(first, first + n))
        labels[first : first + n], clusters = clustered(
            own.contributors,
            own.position,
            settings,
            [settings.seed, key.layer, feature],
            None if profiles is None else profiles.of(_tokens(own)).without([feature]),
        )
        cluster_rows += [(feature, c.cluster, c.n_samples, c.n_samples / n, c.signature, c.stability) for c in clusters]
    _write_contributions(store.part("contributions", key), shared, found, settings)
    _write_effects(store.part("logit_effects", key), shared, checkpoint, found, settings)
    write_head_scores(store, job, key)
    names = ("feature", "cluster", "n_samples", "share", "signature", "stability")
    columns = columns_of(names, cluster_rows)
    write_part(store.part("clusters", key), "clusters", {**shared, **columns}, len(cluster_rows))
    few = np.isin(found.feature, [failure.feature for failure in failed])
    _write_samples(store, job, key, found, np.where(few, NOT_CLUSTERED, labels))
    _write_sums(store.part("scores", key), shared, found)
    write_failures(store.part("failures", key), "circuitlens", key.layer, failed)
    return key


def _tokens(found: Attributed) -> Int64[np.ndarray, " n"]:
    """The ids of contributing tokens."""
    return found.contributors.unit[found.contributors.kind == KINDS.index(TOKEN)]


def _write_contributions(path: Path, shared: Row, found: Attributed, settings: CircuitLensSettings) -> None:
    target, kind, layer, unit, position, score, share = found.contributors
    columns = {
        "feature": found.feature[target],
        "sample": found.sample[target],
        "kind": np.array(KINDS, object)[kind],
        "source_layer": pa.array(layer.astype(np.int16), mask=layer == NONE),
        "source_index": pa.array(unit.astype(np.int32), mask=unit == NONE),
        "source_position": pa.array(position.astype(np.int32), mask=position == NONE),
        "relative_position": pa.array((position - found.position[target]).astype(np.int32), mask=position == NONE),
        "score": score,
        "share": pa.array(share, mask=np.isnan(share)),
        "mode": np.where(kind == KINDS.index(HEAD), settings.heads, settings.sources).astype(object),
    }
    assert (kind[position == NONE] >= KINDS.index(ERROR)).all()
    write_part(path, "contributions", {**shared, **columns}, len(target))


def _write_effects(
    path: Path, shared: Row, checkpoint: Checkpoint, found: Attributed, settings: CircuitLensSettings
) -> None:
    """The tokens that a feature promotes and suppresses most, by the mean over its samples."""
    features, place = np.unique(found.feature, return_inverse=True)
    parts: list[tuple[np.ndarray, ...]] = []
    unembedding = partial(COLUMN_BLOCKS.tiles, checkpoint, None, "W_U", checkpoint.n_tokens)
    for after in range(found.effect.shape[1]):
        known = ~np.isnan(found.effect[:, after, 0])
        n = np.bincount(place[known], minlength=len(features))
        total = np.zeros((len(features), found.effect.shape[2]))
        np.add.at(total, place[known], found.effect[known, after])
        some = np.flatnonzero(n)
        mean = torch.from_numpy(total[some] / n[some, None])
        kept = strongest_effects(mean, unembedding, min(settings.effect_tokens, (checkpoint.n_tokens + 1) // 2))
        parts.append((features[some[kept.vector]], np.full(len(kept.token), after), kept.token, kept.effect))
    names = ("feature", "position", "token_id", "effect")
    joined = {name: np.concatenate(values) for name, values in zip(names, zip(*parts, strict=True), strict=False)}
    order = np.lexsort((joined["position"], joined["feature"])) if joined else np.zeros(0, np.int64)
    columns = {name: values[order] for name, values in joined.items()}
    write_part(path, "logit_effects", {**shared, "sample": -1, **columns}, len(order))


def _write_samples(
    store: Store, job: CircuitLensJob, key: ShardKey, found: Attributed, labels: Int64[np.ndarray, " n"]
) -> None:
    """Write all samples of a shard again, attributed ones with their cluster."""
    within = [k for k in job.sampled_shards(key.layer) if k.start <= key.start < k.stop]
    assert within[0].stop >= key.stop
    samples = read_samples(store, within[0])
    samples = samples.where((samples.feature >= key.start) & (samples.feature < key.stop))
    known = sample_ids(found.feature, found.sample)
    wanted = sample_ids(samples.feature, samples.sample)
    place = np.minimum(np.searchsorted(known, wanted), max(0, len(known) - 1))
    is_known = known[place] == wanted if len(known) else np.zeros(len(wanted), bool)
    cluster = np.where(is_known, labels[place] if len(known) else NOT_CLUSTERED, NOT_CLUSTERED)
    columns = samples._asdict() | {
        "quantile_bin": pa.array(samples.quantile_bin.astype(np.int16), mask=samples.quantile_bin < 0),
        "cluster": pa.array(cluster.astype(np.int16), mask=cluster < NOISE),
    }
    shared = {**job.shared, "layer": key.layer}
    write_part(store.part("samples", key), "samples", {**shared, **columns}, len(samples.feature))


def _write_sums(path: Path, shared: Row, found: Attributed) -> None:
    """The largest difference between contributions and activation, for each feature."""
    features, place, n = np.unique(found.feature, return_inverse=True, return_counts=True)
    worst = np.zeros(len(features))
    np.maximum.at(worst, place, np.abs(found.total - found.activation) / found.activation)
    signed = {**SIGNED, "metric": "completeness_error"}
    write_part(path, "scores", {**shared, **signed, "feature": features, "value": worst, "n": n}, len(features))
