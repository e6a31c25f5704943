"""Costs of the passes over a corpus, and of statistics and samples."""

from configs.run import RunConfig
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import ACTIVE_PER_TOKEN, Sizes
from flows.inputs.machine import arithmetic, n_workers
from interp.activations.encoding import encoder_bytes
from tasks.activations.corpus_pass import ENTRIES_AT_ONCE, POSITIONS_PER_STREAM, positions_per_block
from tasks.loaded_models import ENCODERS

BYTES_PER_ENTRY = 5.2
"""Bytes of an active feature at a token, packed."""

SAMPLE_BYTES = 25
"""Bytes of a sample in a part and in the catalog."""

TOKENISED_PER_S = 300_000
"""Tokens per second that are tokenised and written to the store."""

LOADED_PER_S = 500_000
"""Tokens per second that are loaded into the catalog as text."""

TEXT_BYTES = 2.0
"""Bytes of a token of text in the catalog."""

DRAW_S, GATHER_S = 50e-6, 120e-9
"""Seconds for each feature and each activation to gather them and to draw samples."""


def activations_costs(sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
    """The cost of each step, by its name."""
    workers, n_features = n_workers(config.engine), sizes.n_layers * sizes.d_transcoder
    tokens = sizes.corpus_tokens * (1 - config.corpus.held_out)
    encoders = 2 * n_features * sizes.d_model
    entries = ACTIVE_PER_TOKEN * sizes.n_layers
    blocks = entries * tokens * BYTES_PER_ENTRY
    samples = n_features * (config.activations.n_samples + config.activations.n_top) * SAMPLE_BYTES
    layer = encoder_bytes(sizes.d_transcoder, sizes.d_model, screened=arithmetic(config.engine).screen)
    held = max(layer, min(ENCODERS.max_bytes, sizes.n_layers * layer))
    stream = 2 * POSITIONS_PER_STREAM * sizes.n_layers * sizes.d_model * 4
    n_shards = sizes.n_layers * -(-sizes.d_transcoder // config.shard_size)
    per_block = positions_per_block(sizes.n_layers)
    return {
        "tokenise": Cost(1, sizes.corpus_tokens / TOKENISED_PER_S * rates.slowness, 8 * sizes.corpus_tokens, 0, 150e6),
        "activations": Cost(
            max(1, round(tokens / per_block)),
            tokens * (sizes.model_flops + encoders) / rates.products,
            blocks,
            sizes.model_bytes + held,
            stream + 24 * entries * per_block,
        ),
        "samples": Cost(
            n_shards,
            (n_features * DRAW_S + entries * tokens * GATHER_S) * rates.slowness / workers,
            samples,
            0,
            12 * ENTRIES_AT_ONCE,
        ),
        "texts": Cost(1, tokens / LOADED_PER_S * rates.slowness, TEXT_BYTES * tokens, 0, 100e6),
    }
