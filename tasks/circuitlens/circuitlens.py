"""Attribute the samples of a block of rows, gather them by feature, put some to the causal check, load the catalog.

A block task serves all samples of all layers in its rows, so that a sequence is run through the model once.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from interp.activations.settings import ActivationSettings
from interp.circuitlens.attribution import Targets, contributions, direct_heads, feature_targets
from interp.circuitlens.causality import Drops, Firing, causal_drops
from interp.circuitlens.clusters import NOISE, cluster, describe_clusters, jaccard_distances, signatures
from interp.circuitlens.contributors import NONE, Contributors, significant
from interp.circuitlens.effects import Activations, output_effects, strongest_effects
from interp.circuitlens.frozen import LinearModel, freeze, linear_model
from interp.circuitlens.kinds import ERROR, KINDS
from interp.circuitlens.settings import CircuitLensSettings
from interp.intervals import mean_interval
from storage.activations import Block
from storage.attributions import Attributed, attributions_path, read_attributed, write_attributed
from storage.catalog.database import mark_loaded, open_catalog, replace_rows
from storage.catalog.parts import read_parts, write_part
from storage.checkpoints import Checkpoint, open_checkpoint
from storage.corpora.corpus import corpus_attributes, read_rows_at
from storage.store import ShardKey, Store, shards
from tasks.activations.corpus_pass import CorpusPass, ShardSamples, counted_positions, read_samples
from tasks.models import loaded_model, loaded_transcoder
from tasks.shard_task import shard_task
from tasks.weightlens.project import COLUMN_BLOCKS

VERSION = 4
"""Bump when the same samples and settings would give other contributions, clusters, effects or figures."""

TABLES = ("contributions", "logit_effects", "clusters", "samples", "scores", "failures")
"""What gathering a shard leaves behind, in this order."""

METHOD, NOBODY = "circuitlens", "none"
"""How the catalog's scores of attributions are signed: they have no explainer and no judge."""

BATCH_BYTES = 256_000_000
"""Gradients and contributions of the targets that are carried back together."""

WORST_SUM = 0.02
"""Where contributions differ from the activation by more than this share of it at half of the samples, the model that
is attributed is not the one that was sampled."""


class Sampled(NamedTuple):
    """What the activations stage left: its recipe and how it is tiled, and the corpora that were read."""

    recipe: str
    shard_size: int
    passes: tuple[CorpusPass, ...]
    settings: ActivationSettings

    def shards(self, layer: int, d_transcoder: int) -> list[ShardKey]:
        return shards(self.recipe, layer, d_transcoder, self.shard_size)

    def tokens(self, store: Store, sequences: Int64[np.ndarray, " n"]) -> dict[int, np.ndarray]:
        """Rows by their number, counted through all corpora."""
        found = {}
        for corpus_pass in self.passes:
            n_rows = corpus_attributes(store, corpus_pass.corpus_id).n_sequences
            own = sequences[(sequences >= corpus_pass.first_row) & (sequences < corpus_pass.first_row + n_rows)]
            if len(own):
                rows = read_rows_at(store, corpus_pass.corpus_id, own - corpus_pass.first_row)
                found.update(zip(own.tolist(), rows, strict=True))
        return found

    def counted(self, store: Store, sequence: int, special: Sequence[int]) -> Bool[np.ndarray, " n_pos"]:
        """Which positions of a row count, by its number through all corpora."""
        corpus_pass = next(one for one in reversed(self.passes) if one.first_row <= sequence)
        row = sequence - corpus_pass.first_row
        return counted_positions(store, corpus_pass.corpus_id, Block(row, row + 1), special, self.settings)[0]


@lru_cache(maxsize=128)
def chosen_features(
    store: Store, sampled: Sampled, layer: int, d_transcoder: int, n: int | None, seed: int
) -> Int64[np.ndarray, " n"]:
    """The features of a layer that are attributed: of those that fired, `n` by lot, in the order of the lot."""
    parts = [store.part("features", key) for key in sampled.shards(layer, d_transcoder)]
    table = read_parts(parts, ["feature", "n_active"])
    fired = table["feature"].to_numpy()[table["n_active"].to_numpy() > 0]
    lot = np.random.default_rng([seed, layer]).permutation(d_transcoder)
    return lot[np.isin(lot, fired)][:n]


@shard_task("circuitlens-block", "circuitlens rows {block.start}-{block.stop}")
def attribute_block(
    store: Store,
    checkpoint_id: str,
    model_path: Path,
    recipe: str,
    sampled: Sampled,
    block: Block,
    settings: CircuitLensSettings,
    device: str,
) -> Block:
    """Attribute every chosen feature's samples in a block of rows.

    Memory: the model, the transcoders that fit `TRANSCODERS` (at least one), one sequence's frozen state (a
    decoder row for every active feature at every token), `BATCH_BYTES` of targets, one part of samples, and the
    results: about a kilobyte and, with output effects, a vector of d_model for every sample of the block.
    """
    path = attributions_path(store, recipe, block.start, block.stop)
    if path.exists():
        return block
    checkpoint = open_checkpoint(store, checkpoint_id)
    folder, model = loaded_model(model_path, device, open_attention=True)
    linear = linear_model(model, folder.family, checkpoint.hooks)
    wanted = [_samples(store, checkpoint, sampled, layer, block, settings) for layer in range(checkpoint.n_layers)]
    sequences = np.unique(np.concatenate([samples.sequence for samples, _ in wanted]))
    rows = sampled.tokens(store, sequences)
    found = [
        _attribute_sequence(checkpoint, linear, rows[sequence], at, settings, device)
        for sequence in sequences.tolist()
        if (at := [(samples.where(w := samples.sequence == sequence), first[w]) for samples, first in wanted])
    ]
    whole = Attributed.joined(found or [_nothing(checkpoint, settings)])
    _check_sums(whole)
    write_attributed(path, whole)
    return block


def _samples(
    store: Store, checkpoint: Checkpoint, sampled: Sampled, layer: int, block: Block, settings: CircuitLensSettings
) -> tuple[ShardSamples, np.ndarray]:
    """A layer's samples in a block of rows, and which of them are continued."""
    n, d_transcoder = settings.features_per_layer, checkpoint.d_transcoder
    chosen = chosen_features(store, sampled, layer, d_transcoder, n, settings.seed)
    parts, followed = [], []
    for key in sampled.shards(layer, d_transcoder):
        samples = read_samples(store, key).quantile
        samples = samples.where(np.isin(samples.feature, chosen)).first(settings.samples_per_feature)
        strongest = samples.top(settings.continued_samples if settings.continuation_tokens else 0)
        place = samples.feature * (1 << 32) + samples.sample
        continued = np.isin(place, strongest.feature * (1 << 32) + strongest.sample)
        inside = (samples.sequence >= block.start) & (samples.sequence < block.stop)
        parts.append(samples.where(inside))
        followed.append(continued[inside])
    joined = ShardSamples(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return joined, np.concatenate(followed)


def _attribute_sequence(
    checkpoint: Checkpoint,
    linear: LinearModel,
    row: np.ndarray,
    samples: list[tuple[ShardSamples, np.ndarray]],
    settings: CircuitLensSettings,
    device: str,
) -> Attributed:
    """All samples of one sequence, which is cut behind the last of them."""
    transcoder = partial(loaded_transcoder, checkpoint, device=device)
    n_pos = 1 + max(int(s.position.max(initial=0)) for s, _ in samples)
    tokens = torch.from_numpy(row[:n_pos].astype(np.int64)).to(device)
    frozen = freeze(linear, transcoder, tokens)
    layer = np.concatenate([np.full(len(s.feature), at) for at, (s, _) in enumerate(samples)])
    feature, sample, sequence, position = (
        np.concatenate([getattr(s, name) for s, _ in samples]) for name in ("feature", "sample", "sequence", "position")
    )
    activation = np.concatenate([s.activation for s, _ in samples])
    per_layer = [
        feature_targets(linear, frozen, at, transcoder(at), _tensor(s.feature, device), _tensor(s.position, device))
        for at, (s, _) in enumerate(samples)
        if len(s.feature)
    ]
    targets = Targets(*(torch.cat(columns) for columns in zip(*per_layer, strict=True)))
    parts, total = [], np.zeros(len(layer), np.float32)
    for found in contributions(linear, frozen, targets, max_bytes=BATCH_BYTES, heads=settings.heads == "jacobian"):
        heads = found.heads
        if heads is None:
            heads = direct_heads(linear, frozen, targets.at(found.target))
        parts.append(significant(frozen, found, heads, settings))
        total[found.target.cpu().numpy()] = found.total().cpu().numpy()
    where = [_tensor(column, device) for column in (layer, feature, position)]
    active = Activations(*[*where, _tensor(activation, device)])
    continued = np.concatenate([followed for _, followed in samples])
    effect = np.zeros((len(layer), 0, linear.final.weight.shape[0]), np.float32)
    if settings.effect_tokens:
        effect = _effects(linear, frozen, transcoder, active, continued, settings)
    return Attributed(layer, feature, sample, sequence, position, activation, total, Contributors.joined(parts), effect)


def _tensor(values: np.ndarray, device: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)


def _effects(
    linear: LinearModel,
    frozen: Any,
    transcoder: Any,
    active: Activations,
    continued: np.ndarray,
    settings: CircuitLensSettings,
) -> Float32[np.ndarray, "n n_after d_model"]:
    n_after = settings.continuation_tokens
    now = output_effects(linear, frozen, transcoder, active).cpu().numpy()
    effect = np.full((len(now), 1 + n_after, now.shape[2]), np.nan, np.float32)
    effect[:, :1] = now
    for position in np.unique(active.position.cpu().numpy()[continued]).tolist() if n_after else []:
        which = torch.from_numpy(continued & (active.position.cpu().numpy() == position))
        longer = _continued(linear, frozen.tokens[: position + 1], n_after)
        here = Activations(*(column[which.to(column.device)] for column in active))
        effect[which.numpy()] = (
            output_effects(linear, freeze(linear, transcoder, longer), transcoder, here, n_after).cpu().numpy()
        )
    return effect


@torch.no_grad()
def _continued(linear: LinearModel, tokens: Tensor, n: int) -> Tensor:
    """The tokens and the `n` that the model finds likeliest after them, one by one."""
    for _ in range(n):
        logits = linear.model(input_ids=tokens[None], use_cache=False, logits_to_keep=1).logits
        tokens = torch.cat([tokens, logits[0, -1:].argmax(-1)])
    return tokens


def _nothing(checkpoint: Checkpoint, settings: CircuitLensSettings) -> Attributed:
    n_after = 1 + settings.continuation_tokens if settings.effect_tokens else 0
    none, floats = np.zeros(0, np.int64), np.zeros(0, np.float32)
    effect = np.zeros((0, n_after, checkpoint.attributes.d_model), np.float32)
    return Attributed(none, none, none, none, none, floats, floats, Contributors.joined([]), effect)


def _check_sums(found: Attributed) -> None:
    """Completeness: what was found for each sample must sum to its activation.

    Raises:
        ValueError: at half of the samples it does not.
    """
    apart = np.abs(found.total - found.activation) / found.activation
    if len(apart) and not np.median(apart) <= WORST_SUM:
        worst = int(np.argmax(apart))
        raise ValueError(
            f"layer {found.layer[worst]}, feature {found.feature[worst]}, row {found.sequence[worst]}: contributions "
            f"sum to {found.total[worst]:.4g}, the activation is {found.activation[worst]:.4g}; half of the samples of "
            f"these rows are off by {np.median(apart):.1%} or more, expected {WORST_SUM:.0%} at most"
        )


@shard_task("circuitlens-gather", "circuitlens {key.name}")
def gather_circuits(
    store: Store,
    checkpoint_id: str,
    corpus_id: str,
    key: ShardKey,
    sampled: Sampled,
    blocks: Sequence[Block],
    settings: CircuitLensSettings,
) -> ShardKey:
    """Cluster each feature's samples and sum up what they do. Memory: the samples of a shard as blocks left them."""
    if all(store.part(table, key).exists() for table in TABLES):
        return key
    checkpoint = open_checkpoint(store, checkpoint_id)
    found = read_attributed([attributions_path(store, key.recipe, *block) for block in blocks], key)
    shared = {"checkpoint_id": checkpoint_id, "corpus_id": corpus_id, "layer": key.layer}
    labels = np.full(len(found.layer), NOISE)
    cluster_rows: list[tuple[Any, ...]] = []
    failed: list[tuple[int, str, str]] = []
    features, firsts, counts = np.unique(found.feature, return_index=True, return_counts=True)
    for feature, first, n in zip(features.tolist(), firsts, counts, strict=True):
        if n < settings.min_samples:
            detail = f"{n} samples, clusters take {settings.min_samples} (circuitlens.min_samples)"
            failed.append((feature, "too_few_samples", detail))
            continue
        own = found.at(np.arange(first, first + n))
        signed = signatures(own.contributors, own.position, settings)
        labels[first : first + n] = cluster(jaccard_distances(signed.contains), settings)
        described = describe_clusters(labels[first : first + n], signed)
        cluster_rows += [(feature, c.cluster, c.n_samples, c.n_samples / n, c.signature) for c in described]
    _write_contributions(store.part("contributions", key), shared, found)
    _write_effects(store.part("logit_effects", key), shared, checkpoint, found, settings)
    names = ("feature", "cluster", "n_samples", "share", "signature")
    columns = dict(zip(names, zip(*cluster_rows, strict=True), strict=False))
    write_part(store.part("clusters", key), "clusters", {**shared, **columns}, len(cluster_rows))
    few = np.isin(found.feature, [feature for feature, *_ in failed])
    _write_samples(store, key, shared, sampled, checkpoint, found, np.where(few, NONE - 1, labels))
    _write_sums(store.part("scores", key), shared, found)
    columns = dict(zip(("feature", "reason", "detail"), zip(*failed, strict=True), strict=False))
    failures = {"stage": "circuitlens", "layer": key.layer, **columns}
    write_part(store.part("failures", key), "failures", failures, len(failed))
    return key


def _write_contributions(path: Path, shared: dict[str, Any], found: Attributed) -> None:
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
    }
    assert (kind[position == NONE] >= KINDS.index(ERROR)).all()
    write_part(path, "contributions", {**shared, **columns}, len(target))


def _write_effects(
    path: Path, shared: dict[str, Any], checkpoint: Checkpoint, found: Attributed, settings: CircuitLensSettings
) -> None:
    """The tokens that a feature promotes and suppresses most, on the mean of its samples."""
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
    store: Store,
    key: ShardKey,
    shared: dict[str, Any],
    sampled: Sampled,
    checkpoint: Checkpoint,
    found: Attributed,
    labels: Int64[np.ndarray, " n"],
) -> None:
    """All samples of a shard once more, those that were attributed with their cluster."""
    within = [k for k in sampled.shards(key.layer, checkpoint.d_transcoder) if k.start <= key.start < k.stop]
    assert within[0].stop >= key.stop
    samples = read_samples(store, within[0])
    samples = samples.where((samples.feature >= key.start) & (samples.feature < key.stop))
    known = found.feature * (1 << 32) + found.sample
    wanted = samples.feature * (1 << 32) + samples.sample
    place = np.minimum(np.searchsorted(known, wanted), max(0, len(known) - 1))
    is_known = known[place] == wanted if len(known) else np.zeros(len(wanted), bool)
    cluster = np.where(is_known, labels[place] if len(known) else NONE - 1, NONE - 1)
    columns = samples._asdict() | {
        "quantile_bin": pa.array(samples.quantile_bin.astype(np.int16), mask=samples.quantile_bin < 0),
        "cluster": pa.array(cluster.astype(np.int16), mask=cluster < NOISE),
    }
    write_part(store.part("samples", key), "samples", {**shared, **columns}, len(samples.feature))


def _write_sums(path: Path, shared: dict[str, Any], found: Attributed) -> None:
    """How far contributions are from summing to the activation, at worst, feature by feature."""
    features, place, n = np.unique(found.feature, return_inverse=True, return_counts=True)
    worst = np.zeros(len(features))
    np.maximum.at(worst, place, np.abs(found.total - found.activation) / found.activation)
    signed = {"method": METHOD, "explainer": NOBODY, "judge": NOBODY, "metric": "completeness_error"}
    write_part(path, "scores", {**shared, **signed, "feature": features, "value": worst, "n": n}, len(features))


@shard_task("circuitlens-ablate", "ablate {key.name}")
def ablate_layer(
    store: Store,
    checkpoint_id: str,
    corpus_id: str,
    model_path: Path,
    key: ShardKey,
    attributed: str,
    sampled: Sampled,
    blocks: Sequence[Block],
    settings: CircuitLensSettings,
    device: str,
) -> ShardKey:
    """Put the attributions of some of a layer's features to the causal check; `attributed` is their blocks' recipe.

    Memory: the model, a transcoder, one feature's attributed samples, and a forward pass of eleven short sequences.
    """
    path = store.part("scores", key)
    if path.exists():
        return key
    checkpoint = open_checkpoint(store, checkpoint_id)
    folder, model = loaded_model(model_path, device, open_attention=True)
    linear = linear_model(model, folder.family, checkpoint.hooks)
    chosen = chosen_features(
        store, sampled, key.layer, checkpoint.d_transcoder, settings.features_per_layer, settings.seed
    )
    paths = [attributions_path(store, attributed, *block) for block in blocks]
    rows: list[tuple[Any, ...]] = []
    for feature in chosen[: settings.ablated_features].tolist():
        own = read_attributed(paths, key._replace(start=feature, stop=feature + 1))
        special = folder.tokenizer.all_special_ids
        drops = _drops(store, checkpoint, linear, sampled, special, own, settings, device)
        rows += [(feature, name, *_interval(np.array([getattr(d, name) for d in drops]))) for name in Drops._fields]
    metrics = {
        "tokens": "causal_share",
        "random_tokens": "causal_share_random",
        "heads": "causal_share_heads",
        "random_heads": "causal_share_heads_random",
    }
    rows = [(feature, metrics[name], *rest) for feature, name, *rest in rows]
    names = ("feature", "metric", "value", "low", "high", "n", "reason")
    columns = dict(zip(names, zip(*rows, strict=True), strict=False))
    signed = {"method": METHOD, "explainer": NOBODY, "judge": NOBODY, "layer": key.layer}
    write_part(path, "scores", {"checkpoint_id": checkpoint_id, "corpus_id": corpus_id, **signed, **columns}, len(rows))
    return key


def _drops(
    store: Store,
    checkpoint: Checkpoint,
    linear: LinearModel,
    sampled: Sampled,
    special: Sequence[int],
    own: Attributed,
    settings: CircuitLensSettings,
    device: str,
) -> list[Drops]:
    """Of one feature, samples spread evenly over its activations."""
    by_activation = np.argsort(own.activation, kind="stable")
    n = min(settings.ablated_samples, len(by_activation))
    drawn = by_activation[np.unique(np.linspace(0, len(by_activation) - 1, n).round().astype(np.int64))] if n else []
    own = own.at(np.asarray(drawn, np.int64))
    rows, drops = sampled.tokens(store, np.unique(own.sequence)), []
    for at in range(len(own.layer)):
        layer, feature, sequence = int(own.layer[at]), int(own.feature[at]), int(own.sequence[at])
        until = slice(0, int(own.position[at]) + 1)
        tokens = _tensor(rows[sequence][until].astype(np.int64), device)
        firing = Firing(layer, feature, tokens, sampled.counted(store, sequence, special)[until])
        draw = np.random.default_rng([settings.seed, layer, feature, int(own.sample[at])])
        coder = loaded_transcoder(checkpoint, layer, device)
        found = own.at(np.array([at])).contributors
        drops.append(causal_drops(linear, coder, firing, found, settings.ablated_sources, draw))
    return drops


def _interval(values: Float64[np.ndarray, " n"]) -> tuple[float | None, float | None, float | None, int, str | None]:
    """(mean, its 95% interval, n, reason if there is none)"""
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return None, None, None, 0, "no sample with sources to ablate and as many others"
    low, high = mean_interval(values) or (None, None)
    return float(values.mean()), low, high, len(values), None


@shard_task("load-circuitlens", "load circuitlens")
def load_circuitlens(
    store: Store,
    checkpoint_id: str,
    corpus_id: str,
    run_id: str,
    keys: Sequence[ShardKey],
    ablated: Sequence[ShardKey],
) -> str:
    """Load all parts into the catalog, in one transaction, in the place of what an earlier recipe left there."""
    recipe = keys[0].recipe
    where = {"checkpoint_id": checkpoint_id, "corpus_id": corpus_id}
    with open_catalog(store.catalog, write=True) as connection:
        for table in ("contributions", "logit_effects", "clusters", "samples"):
            replace_rows(connection, table, where, [store.part(table, key) for key in keys])
        signed = {"method": METHOD, "explainer": NOBODY, "judge": NOBODY}
        replace_rows(connection, "scores", where | signed, [store.part("scores", key) for key in (*keys, *ablated)])
        of_checkpoint = "run_id IN (SELECT run_id FROM runs WHERE checkpoint_id = ? AND corpus_id = ?)"
        connection.execute(
            f"DELETE FROM failures WHERE stage = 'circuitlens' AND {of_checkpoint}", [checkpoint_id, corpus_id]
        )
        failures = [store.part("failures", key) for key in keys]
        replace_rows(connection, "failures", {"run_id": run_id, "stage": "circuitlens"}, failures, run_id)
        mark_loaded(connection, f"{checkpoint_id} {corpus_id}", "circuitlens", recipe)
    return recipe
