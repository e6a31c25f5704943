"""Costs of judging."""

from configs.run import RunConfig
from flows.costs.questions import questions_usd
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.inputs.machine import n_workers
from interp.fade.harder import IN_GROUP
from interp.fade.model_judge import TEXTS_PER_WRITING
from tasks.llm.prices import expected_tokens

JUDGE_S = 0.004
"""Seconds to judge one description by rule."""

SCORE_S = 0.004
"""Seconds to compute the scores of one description."""

HASH_S = 4e-7
"""Seconds for each token of the corpus to search it for near-duplicates."""

DIFFERENT = 0.35
"""Share of the texts written from a layer's descriptions that are different from each other, since only these are
read."""

CHARACTERS_PER_TEXT = 160
"""Characters of a natural text."""

CHARACTERS_OF_TASK = 900
"""Characters of a question's instructions."""

MIN_METHODS = 8
"""Number of methods that are judged if the configuration does not name them."""


def evaluate_costs(sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
    """The cost of each step, by its name."""
    how, workers = config.evaluate.how, n_workers(config.engine)
    steering = how.faithfulness
    n_features = _features_per_layer(config, sizes)
    n_steered = min(steering.features_per_layer, n_features) * sizes.n_layers
    layer = sizes.d_transcoder * sizes.d_model * 8
    encoders = sizes.n_layers * 2 * sizes.d_transcoder * sizes.d_model
    read = how.n_texts * how.text_tokens * (sizes.block_flops + encoders)
    rows = n_steered * len(steering.factors) * steering.n_prompts
    written = rows * (steering.prompt_tokens + steering.new_tokens) * sizes.model_flops
    n_descriptions = n_described(config, sizes)
    n_own = n_descriptions / _times_judged(config)
    tokens_written = DIFFERENT * n_own * how.n_synthetic * 1.5 * how.text_tokens
    synthetic = tokens_written * (sizes.model_flops / 2 + 2 * sizes.d_transcoder * sizes.d_model)
    by_description = rates.slowness / workers
    usd = 0.0
    if config.evaluate.judge in ("anthropic", "openai"):
        usd = judging_usd(config, n_own, n_descriptions, n_steered / max(1, n_features * sizes.n_layers))
        usd *= 1 + config.evaluate.decoys / n_features
    tokens = 8 * how.n_texts * how.text_tokens
    return {
        "draw texts": Cost(1, sizes.corpus_tokens * HASH_S * rates.slowness, tokens, 0, 200e6),
        "read held-out": Cost(
            sizes.n_layers, read / rates.products, 0, sizes.model_bytes + sizes.n_layers * layer / 2, layer + tokens
        ),
        "steer": Cost(
            sizes.n_layers * -(-min(steering.features_per_layer, n_features) // 5),
            written / rates.products,
            4 * rows * steering.new_tokens / 3,
            sizes.model_bytes,
            layer,
        ),
        "judge": Cost(
            sizes.n_layers,
            n_descriptions * JUDGE_S * by_description,
            n_descriptions * 2_500,
            0,
            500e6,
            usd,
            interpreted=True,
        ),
        "read written": Cost(
            sizes.n_layers, synthetic / rates.products, n_own * how.n_synthetic * 100, sizes.model_bytes, layer + 200e6
        ),
        "score": Cost(
            sizes.n_layers,
            n_descriptions * SCORE_S * by_description,
            n_descriptions * 400,
            0,
            200e6,
            interpreted=True,
        ),
    }


def _features_per_layer(config: RunConfig, sizes: Sizes) -> int:
    """Features of a layer that are judged, rounded up."""
    sample, most = config.evaluate.sample, config.evaluate.how.features_per_layer
    return min(most if sample is None else -(-sample // sizes.n_layers), sizes.d_transcoder)


def n_described(config: RunConfig, sizes: Sizes) -> float:
    """Number of judged descriptions, including wrong ones."""
    n_features = _features_per_layer(config, sizes) * sizes.n_layers
    methods = len(config.evaluate.methods or ()) or MIN_METHODS
    return n_features * (methods * _times_judged(config) + ("constant" in config.evaluate.controls))


def _times_judged(config: RunConfig) -> int:
    """How often a description is judged: for its own feature, and as a wrong one for others."""
    return 1 + sum(control in config.evaluate.controls for control in ("shuffled", "swapped"))


def judging_usd(config: RunConfig, n_own: float, n_descriptions: float, steered_share: float) -> float:
    """Estimated cost of a language model as judge, in USD."""
    how, step = config.evaluate.how, config.evaluate.how.texts_per_question
    texts = how.n_rated + how.n_fuzzed + how.n_simulated + 2 * how.n_hard + IN_GROUP * how.n_intruder
    texts += steered_share * len(how.faithfulness.factors) * how.faithfulness.n_prompts
    n_writing, n_rating = n_own * -(-how.n_synthetic // TEXTS_PER_WRITING), n_descriptions * texts / step
    characters = (n_writing + n_rating) * CHARACTERS_OF_TASK + n_descriptions * texts * CHARACTERS_PER_TEXT
    tokens = expected_tokens("rate", n_writing * 600 + n_rating * (40 + 20 * step))
    return questions_usd(config, config.evaluate.judge, n_writing + n_rating, characters, tokens)
