"""Costs of WeightLens."""

from configs.run import RunConfig
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from interp.projection import POOL_ROOM
from tasks.weightlens.project import COLUMN_BLOCKS
from tasks.weightlens.single_token import TOKENS_PER_BLOCK

PARTS_BYTES_PER_FEATURE = 2_100
"""Bytes of Parquet parts and catalog rows for each feature: 2,040 in store/demo after `make demo`, over 4,096
features."""

PROPAGATE_S = 0.0005
"""Seconds for each feature to propagate its tokens and put them into words."""


def weightlens_costs(sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
    """The cost of each step, by its name."""
    n_layers, d_model, n_tokens, d_transcoder = sizes.n_layers, sizes.d_model, sizes.n_tokens, sizes.d_transcoder
    upstream = sum(len(config.weightlens.upstream_layers(layer)) for layer in range(n_layers))
    n_features = n_layers * d_transcoder
    single = n_tokens * (sizes.block_flops + 2 * n_features * d_model)
    projections = 2 * d_model * d_transcoder * (2 * n_tokens * n_layers + upstream * d_transcoder)
    encoder = d_transcoder * d_model * 4
    inputs = TOKENS_PER_BLOCK * n_layers * d_model * 4
    columns = min(COLUMN_BLOCKS.max_bytes, 2 * n_tokens * d_model * 4 + n_features * d_model * 4)
    shard = config.shard_size * (
        3 * d_model * 4 + 2 * (POOL_ROOM + 1) * min(config.weightlens.token_pool, n_tokens) * 8
    )
    n_shards = n_layers * -(-d_transcoder // config.shard_size)
    return {
        "single tokens": Cost(
            -(-n_tokens // TOKENS_PER_BLOCK),
            single / rates.products,
            n_layers * n_tokens * 64 * 8,
            sizes.model_bytes,
            encoder + inputs,
        ),
        "project": Cost(
            n_shards, projections / rates.projections, n_features * PARTS_BYTES_PER_FEATURE, columns, shard
        ),
        "propagate": Cost(n_shards, n_features * PROPAGATE_S * rates.slowness, 0, 0, n_features * 200),
    }
