"""Costs of attribution, clustering and the causal check."""

from typing import Literal

from configs.run import RunConfig
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import ACTIVE_PER_TOKEN, Sizes
from flows.inputs.machine import n_workers
from flows.recipes.circuitlens import (
    FEATURES_PER_SHARD,
    MOST_ROWS_PER_BLOCK,
    SAMPLES_PER_BLOCK,
    samples_per_feature,
)
from interp.circuitlens.settings import CircuitLensSettings
from tasks.circuitlens.job import BATCH_BYTES
from tasks.loaded_models import TRANSCODERS

BYTES_PER_SAMPLE = 700
"""Bytes of a sample in parts and in the catalog, mainly for contributions."""

STEP_S = 9e-6
"""Seconds of a small step of a layer at one position, of any size; sequences of narrow models share them."""

ORDER_S, ORDERED_BYTES = 1e-6, 49
"""Seconds for each sample to read it and sort it by row, and its bytes there until all are attributed."""

GATHER_S = 0.0004
"""Seconds for each sample to gather and cluster it."""

ABLATED_VARIANTS = 11
"""Forward passes for each sample of the causal check: one without ablation, and ten with sources ablated."""


Mode = Literal["float32", "bfloat16", "direct"]
"""A sweep in float32 or bfloat16 (`circuitlens.precision`), or none (`circuitlens.sources`)."""

AGREEMENT: dict[Mode, float] = {"float32": 1.0, "bfloat16": 0.995, "direct": 0.586}
"""Of the features that stand out in this mode or in a float32 sweep, those that do in both (SmolLM2, docs/methods.md).
"""

SETTING: dict[Mode, str] = {
    "float32": "circuitlens.precision=float32 (the default)",
    "bfloat16": "circuitlens.precision=bfloat16",
    "direct": "circuitlens.sources=direct",
}
"""What to set for a mode."""

SPEED: dict[Mode, float] = {"float32": 0.5, "bfloat16": 0.64, "direct": 0.065}
"""The rate of a mode's operations as a share of that of large float32 products, likewise: what is no product takes half
of a sweep's time, and direct contributions are read from memory."""

BATCHED = 1.9
"""How many times the operations of its own tokens a sample takes in a batch, which sees its sequence to the last target
of them all (`benchmarks.modes`, SmolLM2)."""


def mode_of(settings: CircuitLensSettings) -> Mode:
    """In which mode samples are attributed."""
    return "direct" if settings.sources == "direct" else settings.precision


def sample_operations(sizes: Sizes, n_pos: int, mode: Mode) -> float:
    """Operations of all products of attributing one sample: half of the layers and of the sequence lie beneath it."""
    n_layers, n_tokens, heads = sizes.n_layers / 2, n_pos / 2, sizes.attention
    reading = 2 * sizes.d_model * (ACTIVE_PER_TOKEN + 2) * n_tokens
    if mode == "direct":
        return n_layers * (4 * sizes.d_model * heads.mixed + BATCHED * n_tokens * 2 * heads.n * sizes.d_model + reading)
    carried = 2 * n_tokens * (sizes.d_model * (heads.mixed + heads.values) + n_tokens * heads.mixed)
    return n_layers * BATCHED * (carried + reading)


def cheapest_mode(sizes: Sizes, n_pos: int, agreement: float) -> Mode:
    """Of the modes that agree so well with the sweep in float32, the one that takes least time.

    Raises:
        ValueError: no agreement is asked that there can be.
    """
    if not 0 <= agreement <= 1:
        raise ValueError(f"--agreement is {agreement}; expected 0 to 1")
    enough: list[Mode] = [mode for mode, found in AGREEMENT.items() if found >= agreement]
    return min(enough, key=lambda mode: sample_operations(sizes, n_pos, mode) / SPEED[mode])


def circuitlens_costs(sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
    """The cost of each step, by its name. A sequence is run once; a sample is carried back through half of it."""
    settings, workers, n_pos = config.circuitlens, n_workers(config.engine), config.corpus.row_tokens()
    layers, width = range(sizes.n_layers), sizes.d_transcoder
    n_features = config.transcoder.n_explained(layers, settings.features_per_layer, width)
    n_samples = n_features * samples_per_feature(config)
    rows = min(sizes.corpus_tokens * (1 - config.corpus.held_out) / n_pos, n_samples)
    encoders = 2 * sizes.n_layers * sizes.d_transcoder * sizes.d_model
    once = rows * n_pos * (sizes.model_flops + encoders)
    sweep = sample_operations(sizes, n_pos, "float32")
    own = sample_operations(sizes, n_pos, mode_of(settings))
    n_scores = n_features * min(settings.qk_samples, samples_per_feature(config)) * settings.qk_heads
    scores = n_scores * 2 * (settings.qk_keys + 3) * sweep / 2  # heads lie half as high
    back = n_samples * own / SPEED[mode_of(settings)] + scores / SPEED["float32"]
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
