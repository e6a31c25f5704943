"""Costs of co-activation and of its edges."""

import shutil

from configs.run import RunConfig
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import ACTIVE_PER_TOKEN, Sizes
from flows.inputs.checkpoint_plan import store_path
from flows.inputs.machine import n_workers

TILE_S, EDGE_S = 4e-9, 3e-9
"""Seconds for a pair of active features at a token, and for an active token of a candidate edge."""

READ_S, RANK_S = 15e-9, 60e-9
"""Seconds for an active feature of a layer that is read together with some targets of another, and for each source and
target that is ranked."""

BEGINNINGS = 9
"""Number of beginnings and halves of the text for which edges are ranked."""

PAIR_BYTES, EMPTY_BYTES = 8.0, 0.1
"""Bytes in the three matrices for a pair of features that were ever active together, and for another pair."""

EDGE_BYTES = 60
"""Bytes of an edge, in a part and in the catalog."""


def coactivation_costs(sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
    """The cost of each step, by its name."""
    settings, workers = config.coactivation, n_workers(config.engine)
    layers = config.transcoder.chosen_of(sizes.n_layers)
    pairs = settings.layer_pairs(layers)
    tokens = sizes.corpus_tokens * (1 - config.corpus.held_out)
    n_shards = -(-sizes.d_transcoder // config.shard_size)
    n_edges = len(layers) * sizes.d_transcoder * settings.top_k
    active = ACTIVE_PER_TOKEN
    has_matrices = settings.pairs != "edges"
    disk = matrix_bytes(sizes, config) if has_matrices else 0
    tile = 40 * min(config.shard_size, sizes.d_transcoder) ** 2
    per_edge = 2 * tokens * active / sizes.d_transcoder
    targets = min(settings.report_targets, sizes.d_transcoder)
    ranked = BEGINNINGS * targets * sizes.d_transcoder * RANK_S
    n_targets = len({target for _, target in pairs})
    compared = (len(pairs) + n_targets) * (tokens * active * READ_S + ranked)
    return {
        "coactivation": Cost(
            len(pairs) * n_shards if has_matrices else 0,
            len(pairs) * tokens * active**2 * TILE_S * rates.slowness / workers if has_matrices else 0,
            disk,
            0,
            tile,
        ),
        "twera": Cost(
            len(layers) * n_shards,
            n_edges * per_edge * EDGE_S * rates.slowness / workers
            + (2 * len(pairs) * sizes.d_transcoder**2 * sizes.d_model / rates.products if has_matrices else 0),
            n_edges * EDGE_BYTES,
            0,
            tile,
        ),
        "stability": Cost(n_targets, compared * rates.slowness / workers, 0, 0, 48 * targets * sizes.d_transcoder),
    }


def matrix_bytes(sizes: Sizes, config: RunConfig) -> float:
    """Estimated size of the matrices of all pairs of layers, as if no two tokens activated the same features
    together."""
    pairs = sizes.d_transcoder**2
    together = min(pairs, sizes.corpus_tokens * ACTIVE_PER_TOKEN**2)
    n_layer_pairs = len(config.coactivation.layer_pairs(config.transcoder.chosen_of(sizes.n_layers)))
    return n_layer_pairs * (together * PAIR_BYTES + pairs * EMPTY_BYTES)


def refuse_what_does_not_fit(config: RunConfig, n_bytes: float) -> None:
    """Compare the size of the missing matrices with the free disk space.

    Raises:
        ValueError: there is not enough space; the message has both numbers.
    """
    place = store_path(config).resolve()
    existing = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if n_bytes > free:
        raise ValueError(
            f"coactivation.pairs: the matrices of {config.coactivation.pairs} take about {n_bytes / 1e9:.0f} GB, and "
            f"{existing} has {free / 1e9:.0f} GB free; set coactivation.pairs=edges, or name pairs of layers"
        )
