"""Costs of descriptions."""

from collections.abc import Sequence
from typing import get_args

from configs.run import RunConfig
from flows.costs.questions import questions_usd
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.costs.weightlens import PROPAGATE_S
from flows.inputs.machine import n_workers
from flows.recipes.describe import NEEDS, WIRED
from interp.descriptions.evidence import Method
from tasks.llm.prices import expected_tokens

DESCRIBE_S = 0.0018
"""Seconds for each feature and method to read the evidence and write the description by rule."""

BYTES_INHERITED = 400
"""Bytes of a feature's inherited tokens, in a part and in the catalog."""

BYTES_PER_DESCRIPTION = 250
"""Bytes of a description, in a part and in the catalog."""

CHARACTERS_PER_QUESTION = 7_500
"""Characters of a question about a feature's samples: 20 of 32 tokens each, and the instructions."""

CLUSTERS_PER_FEATURE = 4
"""Clusters of a feature, about as many as in the paper: 4.5 at Gemma-2-2B's layer 7, 2.8 at layer 12."""

CHARACTERS_PER_JOIN = 2_500
"""Characters of a question that combines the descriptions of clusters."""


def describe_costs(sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
    """The cost of each step, by its name."""
    methods = config.describe.methods or tuple(get_args(Method))
    layers, width = range(sizes.n_layers), sizes.d_transcoder
    n_features = config.transcoder.n_explained(layers, config.describe.features_per_layer, width)
    n_features = min(config.describe.sample or n_features, n_features)
    n = n_features * len(methods)
    usd = _questions_usd(config, sizes, methods, n_features)
    n_shards = sizes.n_layers * -(-sizes.d_transcoder // config.shard_size)
    attributed = min(n_features, sizes.n_layers * (config.circuitlens.features_per_layer or sizes.d_transcoder))
    n_worded = sum(attributed if "circuitlens" in NEEDS[method] else n_features for method in methods)
    seconds = n_worded * DESCRIBE_S * rates.slowness / n_workers(config.engine)
    wiring = sizes.n_layers * sizes.d_transcoder if WIRED in methods else 0
    return {
        "wire": Cost(
            n_shards if wiring else 0, wiring * PROPAGATE_S * rates.slowness, wiring * BYTES_INHERITED, 0, 200e6
        ),
        "describe": Cost(n_shards, seconds, n * BYTES_PER_DESCRIPTION, 0, 200e6, usd, True),
    }


def _questions_usd(config: RunConfig, sizes: Sizes, methods: Sequence[Method], n_features: int) -> float:
    """The cost in USD of a language model's descriptions of this many features: a question for each feature and method,
    or one for each cluster, which the methods of CircuitLens share, and one for each method to combine them."""
    attributed = config.circuitlens.features_per_layer or sizes.d_transcoder
    n_attributed = min(n_features, sizes.n_layers * attributed)
    n_methods = sum("circuitlens" in NEEDS[method] for method in methods)
    n_joins = n_attributed * n_methods
    n = n_features * (len(methods) - n_methods) + (n_attributed * CLUSTERS_PER_FEATURE if n_methods else 0)
    characters = n * CHARACTERS_PER_QUESTION + n_joins * CHARACTERS_PER_JOIN
    answers = (n + n_joins) * expected_tokens("explain", config.llm.max_tokens)
    return questions_usd(config, config.describe.explainer, n + n_joins, characters, answers)
