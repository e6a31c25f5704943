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

BYTES_PER_SAMPLE = 1600
"""Bytes of a sample in parts (470), in the catalog (512, and up to 74 for edges) and in its published copy, mainly for
contributions."""

STEP_S = 9e-6
"""Seconds for a small step of one layer at one position, whatever its size; narrow models take several sequences in a
step."""

ORDER_S, ORDERED_BYTES = 1e-6, 49
"""Seconds for each sample to read it and sort it by row, and its bytes there until all are attributed."""

GATHER_S = 0.0004
"""Seconds for each sample to gather and cluster it."""

ABLATED_VARIANTS = 11
"""Forward passes for each sample of the causal check: one without ablation, and ten with sources ablated."""


Mode = Literal["float32", "bfloat16", "direct"]
"""A sweep in float32 or bfloat16 (`circuitlens.precision`), or none (`circuitlens.sources`)."""

AGREEMENT: dict[Mode, float] = {"float32": 1.0, "bfloat16": 0.995, "direct": 0.586}
"""The agreement of each mode with a float32 sweep: the number of significant contributors in both, divided by the
number in either (SmolLM2, docs/methods.md, "Cheaper ways to attribute")."""

SETTING: dict[Mode, str] = {
    "float32": "circuitlens.precision=float32 (the default)",
    "bfloat16": "circuitlens.precision=bfloat16",
    "direct": "circuitlens.sources=direct",
}
"""The setting that selects each mode."""

SPEED: dict[Mode, float] = {"float32": 0.62, "bfloat16": 0.85, "direct": 0.13}
"""The rate of each mode's operations, as a share of the rate of large float32 products (measured in the same way). A
third of a sweep's time is spent on other things than products, and direct contributions are limited by memory."""


def mode_of(settings: CircuitLensSettings) -> Mode:
    """The mode in which samples are attributed."""
    return "direct" if settings.sources == "direct" else settings.precision


def sample_operations(sizes: Sizes, n_pos: int, mode: Mode) -> float:
    """The number of operations of all products for attributing one sample, which on average lies above half of the
    layers and half of the sequence."""
    n_layers, n_tokens, heads = sizes.n_layers / 2, n_pos / 2, sizes.attention
    reading = 2 * sizes.d_model * (ACTIVE_PER_TOKEN + 2) * n_tokens
    if mode == "direct":
        return n_layers * (4 * sizes.d_model * heads.mixed + n_tokens * 2 * heads.n * sizes.d_model + reading)
    queries = n_pos / 3  # of a source, the mean over tokens of targets that are spread evenly
    carried = 2 * n_tokens * (sizes.d_model * (heads.mixed + heads.values) + queries * heads.mixed)
    return n_layers * (carried + reading)


def cheapest_mode(sizes: Sizes, n_pos: int, agreement: float) -> Mode:
    """The fastest of the modes that agree with the float32 sweep to at least this degree.

    Raises:
        ValueError: `agreement` is not from 0 to 1.
    """
    if not 0 <= agreement <= 1:
        raise ValueError(f"--agreement is {agreement}; expected 0 to 1")
    enough: list[Mode] = [mode for mode, found in AGREEMENT.items() if found >= agreement]
    return min(enough, key=lambda mode: sample_operations(sizes, n_pos, mode) / SPEED[mode])


def circuitlens_costs(sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
    """The cost of each step, by its name. A sequence is run once; a sample is carried back through half of it."""
    settings, workers, n_pos = config.circuitlens, n_workers(config.engine), config.corpus.row_tokens()
    layers, width = config.transcoder.chosen_of(sizes.n_layers), sizes.d_transcoder
    n_features = config.transcoder.n_explained(layers, settings.features_per_layer, width)
    n_samples = n_features * samples_per_feature(config)
    rows = min(sizes.corpus_tokens * (1 - config.corpus.held_out) / n_pos, n_samples)
    encoders = 2 * len(layers) * sizes.d_transcoder * sizes.d_model
    once = rows * n_pos * (sizes.model_flops + encoders)
    sweep = sample_operations(sizes, n_pos, "float32")
    own = sample_operations(sizes, n_pos, mode_of(settings))
    n_scores = n_features * min(settings.qk_samples, samples_per_feature(config)) * settings.qk_heads
    scores = n_scores * 2 * (settings.qk_keys + 3) * sweep / 2  # on average, heads lie at half the height of samples
    back = n_samples * own / SPEED[mode_of(settings)] + scores / SPEED["float32"]
    steps = rows * sizes.n_layers * (n_pos + 50) * STEP_S * rates.slowness / workers
    layer = sizes.d_transcoder * sizes.d_model * 8
    held = max(layer, min(TRANSCODERS.max_bytes, sizes.n_layers * layer))
    frozen = n_pos * (sizes.n_layers + 1) * ACTIVE_PER_TOKEN * sizes.d_model * 4
    result = SAMPLES_PER_BLOCK * (1_000 + sizes.d_model * 4)
    n_ablated = len(layers) * settings.ablated_features * settings.ablated_samples
    ablating = n_ablated * ABLATED_VARIANTS * n_pos / 2 * sizes.model_flops / rates.products
    n_blocks = max(1, round(max(n_samples / SAMPLES_PER_BLOCK, rows / MOST_ROWS_PER_BLOCK)))
    per_shard = min(config.shard_size, FEATURES_PER_SHARD)
    model = 1.3 * sizes.model_bytes  # and a copy of the attention's values and outputs
    n_shards = len(layers) * -(-sizes.d_transcoder // config.shard_size)
    drawn = len(layers) * sizes.d_transcoder * config.activations.n_samples
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
            len(layers) * -(-sizes.d_transcoder // per_shard),
            n_samples * GATHER_S * rates.slowness / workers,
            0,
            0,
            per_shard * config.activations.n_samples * (2_000 + sizes.d_model * 4),
            interpreted=True,
        ),
        "ablate": Cost(
            len(layers) if n_ablated else 0,
            ablating + n_ablated * sizes.n_layers * 2e-3 * rates.slowness / workers,
            0,
            model + held,
            0,
        ),
    }
