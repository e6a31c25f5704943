"""The causal check of attributions: run the real model with sources ablated."""

import numpy as np
from jaxtyping import Float64

from interp.circuitlens.causality import Drops, Firing, causal_drops
from interp.circuitlens.linear import LinearModel, linear_model
from interp.intervals import drop_interval
from interp.products import fast_products
from storage.attributions import Attributed, read_attributed
from storage.catalog.parts import columns_of, write_part
from storage.checkpoints import Checkpoint, open_checkpoint
from storage.store import ShardKey, Store
from tasks.circuitlens.job import SIGNED, CircuitLensJob, as_tensor
from tasks.device_memory import turn_on
from tasks.loaded_models import loaded_model, loaded_transcoder
from tasks.shard_task import shard_task

METRICS = {
    "tokens": "causal_share",
    "random_tokens": "causal_share_random",
    "heads": "causal_share_heads",
    "random_heads": "causal_share_heads_random",
}
"""The catalog's metric for each field of `Drops`, in order."""


@shard_task("circuitlens-ablate", "ablate {key.name}")
def ablate_layer(store: Store, job: CircuitLensJob, key: ShardKey) -> ShardKey:
    """Check the attributions of some of a layer's features by ablation.

    Memory: the model, a transcoder, one feature's attributed samples, and a forward pass of eleven short sequences.
    """
    path = store.part("scores", key)
    if path.exists():
        return key
    checkpoint = open_checkpoint(store, job.checkpoint_id)
    folder, model = loaded_model(job.model_path, job.device, open_attention=True)
    chosen, paths = job.chosen_features(store, key.layer), job.attributed_paths(store)
    rows: list[tuple[int, str, float | None, float | None, float | None, int, str | None]] = []
    with turn_on(job.device), fast_products(checkpoint.attributes.d_model):
        linear = linear_model(model, folder.family, checkpoint.hooks)
        for feature in chosen[: job.settings.ablated_features].tolist():
            own = read_attributed(paths, key._replace(start=feature, stop=feature + 1))
            drops = _drops(store, job, checkpoint, linear, own)
            for name, metric in METRICS.items():
                rows.append((feature, metric, *_interval(np.array([getattr(drop, name) for drop in drops]))))
        del linear
    names = ("feature", "metric", "value", "low", "high", "n", "reason")
    columns = columns_of(names, rows)
    write_part(path, "scores", {**job.shared, **SIGNED, "layer": key.layer, **columns}, len(rows))
    return key


def _drops(
    store: Store, job: CircuitLensJob, checkpoint: Checkpoint, linear: LinearModel, own: Attributed
) -> list[Drops]:
    """Drops for one feature, on samples spread evenly over its activations."""
    settings, special = (
        job.settings,
        loaded_model(job.model_path, job.device, open_attention=True)[0].tokenizer.all_special_ids,
    )
    by_activation = np.argsort(own.activation, kind="stable")
    n = min(settings.ablated_samples, len(by_activation))
    drawn = by_activation[np.unique(np.linspace(0, len(by_activation) - 1, n).round().astype(np.int64))] if n else []
    own = own.at(np.asarray(drawn, np.int64))
    rows, drops = job.rows(store, np.unique(own.sequence)), []
    for at in range(len(own.layer)):
        layer, feature, sequence = int(own.layer[at]), int(own.feature[at]), int(own.sequence[at])
        until = slice(0, int(own.position[at]) + 1)
        tokens = as_tensor(rows[sequence][until].astype(np.int64), job.device)
        firing = Firing(layer, feature, tokens, job.counted(store, sequence, special)[until])
        draw = np.random.default_rng([settings.seed, layer, feature, int(own.sample[at])])
        coder = loaded_transcoder(checkpoint, layer, job.device)
        found = own.at(np.array([at])).contributors
        drops.append(causal_drops(linear, coder, firing, found, settings.ablated_sources, draw))
    return drops


def _interval(values: Float64[np.ndarray, " n"]) -> tuple[float | None, float | None, float | None, int, str | None]:
    """(mean, its 95% interval, n, reason if there is none)"""
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return None, None, None, 0, "no sample with sources to ablate and as many others"
    low, high = drop_interval(values) or (None, None)
    return float(values.mean()), low, high, len(values), None
