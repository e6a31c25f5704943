"""Costs of attribution, clustering and the causal check."""

from configs.run import RunConfig
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import ACTIVE_PER_TOKEN, Sizes
from flows.recipes.circuitlens import (
    FEATURES_PER_SHARD,
    MOST_ROWS_PER_BLOCK,
    SAMPLES_PER_BLOCK,
    samples_per_feature,
)
from flows.subject.machine import n_workers
from tasks.circuitlens.job import BATCH_BYTES
from tasks.models import TRANSCODERS

BYTES_PER_SAMPLE = 700
"""Bytes of a sample in parts and in the catalog, mainly for contributions."""

STEP_S = 20e-6
"""Seconds of a small matrix product, independent of its size."""

ORDER_S, ORDERED_BYTES = 1e-6, 49
"""Seconds for each sample to read it and sort it by row, and its bytes there until all are attributed."""

GATHER_S = 0.0004
"""Seconds for each sample to gather and cluster it."""

ABLATED_VARIANTS = 11
"""Forward passes for each sample of the causal check: one without ablation, and ten with sources ablated."""


def circuitlens_costs(sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
    """The cost of each step, by its name. A sequence is run once; a sample is carried back through half of it."""
    settings, workers, n_pos = config.circuitlens, n_workers(config.engine), config.corpus.row_tokens()
    layers, width = range(sizes.n_layers), sizes.d_transcoder
    n_features = config.transcoder.n_explained(layers, settings.features_per_layer, width)
    n_samples = n_features * samples_per_feature(config)
    rows = min(sizes.corpus_tokens * (1 - config.corpus.held_out) / n_pos, n_samples)
    encoders = 2 * sizes.n_layers * sizes.d_transcoder * sizes.d_model
    once = rows * n_pos * (sizes.model_flops + encoders)
    sweep = (n_pos / 2) * (sizes.n_layers / 2) * 8 * sizes.d_model**2
    n_scores = n_features * min(settings.qk_samples, samples_per_feature(config)) * settings.qk_heads
    back = n_samples * sweep + n_scores * 2 * (settings.qk_keys + 3) * sweep / 2  # half the layers, on average
    steps = rows * sizes.n_layers * (n_pos + 50) * STEP_S * rates.slowness / workers
    layer = sizes.d_transcoder * sizes.d_model * 8
    held = max(layer, min(TRANSCODERS.max_bytes, sizes.n_layers * layer))
    frozen = n_pos * (sizes.n_layers + 1) * ACTIVE_PER_TOKEN * sizes.d_model * 4
    result = SAMPLES_PER_BLOCK * (1_000 + sizes.d_model * 4)
    n_ablated = sizes.n_layers * settings.ablated_features * settings.ablated_samples
    ablating = n_ablated * ABLATED_VARIANTS * n_pos / 2 * sizes.model_flops / rates.products
    n_blocks = max(1, round(max(n_samples / SAMPLES_PER_BLOCK, rows / MOST_ROWS_PER_BLOCK)))
    per_shard = min(config.shard_size, FEATURES_PER_SHARD)
    model = 1.3 * sizes.model_bytes  # and a copy of the attention's values and outputs
    n_shards = sizes.n_layers * -(-sizes.d_transcoder // config.shard_size)
    drawn = sizes.n_layers * sizes.d_transcoder * config.activations.n_samples
    return {
        "order samples": Cost(
            n_shards, drawn * ORDER_S / workers, n_samples * ORDERED_BYTES, 0, 100 * drawn / n_shards
        ),
        "attribute": Cost(
            n_blocks,
            (once + back) / rates.products + steps,
            n_samples * BYTES_PER_SAMPLE,
            model + held,
            frozen + BATCH_BYTES + result,
        ),
        "cluster": Cost(
            sizes.n_layers * -(-sizes.d_transcoder // per_shard),
            n_samples * GATHER_S * rates.slowness / workers,
            0,
            0,
            per_shard * config.activations.n_samples * (2_000 + sizes.d_model * 4),
            interpreted=True,
        ),
        "ablate": Cost(
            sizes.n_layers if n_ablated else 0,
            ablating + n_ablated * sizes.n_layers * 2e-3 * rates.slowness / workers,
            0,
            model + held,
            0,
        ),
    }
