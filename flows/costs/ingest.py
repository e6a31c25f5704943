"""Costs of ingestion."""

from configs.run import RunConfig
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from interp.quality import ROWS_PER_SPLICE

WRITTEN_BYTES_PER_S = 100e6
"""Bytes per second of files that are read, hashed and written into the store."""

MEASURED_BYTES = 2_000_000_000
"""Memory for the transcoders that a task measures in one pass, in bytes; a larger one is measured alone."""


def ingest_costs(sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
    """The cost of each step, by its name."""
    spliced = config.quality_tokens / ROWS_PER_SPLICE * (sizes.n_layers + 2)
    coders = sizes.n_layers * 4 * sizes.d_transcoder * sizes.d_model
    unembedding = sizes.model_flops - sizes.block_flops
    flops = config.quality_tokens * (sizes.block_flops + coders) + spliced * (sizes.block_flops / 2 + unembedding)
    measuring = flops / rates.products
    layer = sizes.d_transcoder * sizes.d_model * 8
    seconds = sizes.n_bytes / WRITTEN_BYTES_PER_S + measuring
    measured = max(2 * layer, min(MEASURED_BYTES, sizes.n_layers * layer))
    return {"ingest": Cost(sizes.n_layers, seconds, sizes.n_bytes, sizes.model_bytes, measured)}
