"""What asking Claude costs, by the prices of the configuration."""

from typing import Any, NamedTuple

from interp.descriptions.settings import AnthropicSettings, Prices

CHARACTERS_PER_TOKEN = 3.0
"""Fewer than in English text, since much of a prompt is JSON and token lists; so the estimate is rather too high."""

EXPECTED_OUTPUT = 0.5
"""Of the tokens that an answer may have, those that it is expected to have."""


class Estimate(NamedTuple):
    """What asking will cost, about."""

    n_questions: int
    input_tokens: float
    output_tokens: float
    usd: float


def cost_usd(usage: Any, prices: Prices, *, batch: bool) -> float:
    """What an answer costs by the configuration's prices."""
    written, read = usage.cache_creation_input_tokens or 0, usage.cache_read_input_tokens or 0
    full = usage.input_tokens * prices.input + usage.output_tokens * prices.output
    full += written * prices.cache_write + read * prices.cache_read
    return full / 1e6 * (prices.batch if batch else 1.0)


def estimate(n_questions: int, characters: float, answer_tokens: float, settings: AnthropicSettings) -> Estimate:
    """What questions of so many characters, whose answers may have so many tokens, are expected to cost.

    Caching of prompts is left out of account.
    """
    prices = priced(settings)[1]
    share = prices.batch if n_questions > settings.batch_above else 1.0
    read, written = characters / CHARACTERS_PER_TOKEN, answer_tokens * EXPECTED_OUTPUT
    return Estimate(n_questions, read, written, share * (read * prices.input + written * prices.output) / 1e6)


def priced(settings: AnthropicSettings) -> tuple[str, Prices]:
    """The model and its prices.

    Raises:
        ValueError: either is not set.
    """
    if settings.model is None or settings.prices is None:
        raise ValueError("anthropic.model and anthropic.prices are not set: name the model and what it costs")
    return settings.model, settings.prices
