"""The cost of asking a language model: known prices, and estimates before anything is asked."""

import re
from datetime import date
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from interp.descriptions.llm_questions import Purpose
from interp.descriptions.settings import Prices

KNOWN_PRICES = Path(__file__).with_name("known_prices.yaml")

CHARACTERS_PER_TOKEN = 3.0
"""Characters of a token in prompts: fewer than in English text, since much of a prompt is JSON and token lists. The
estimate is therefore rather too high."""

DESCRIPTION_SHARE, OTHER_SHARE = 0.2, 0.5
"""Expected share of the tokens allowed for an answer, for a description and for other answers."""

_SNAPSHOT = re.compile(r"-\d{8}$")


class KnownPrices(NamedTuple):
    """The table of known prices, and the date when it was copied from the provider's list."""

    as_of: date
    models: dict[str, Prices]


@cache
def known_prices() -> KnownPrices:
    """The table of this version."""
    table = yaml.safe_load(KNOWN_PRICES.read_text(encoding="utf-8"))
    return KnownPrices(table["as_of"], {name: Prices(**prices) for name, prices in table["models"].items()})


def anthropic_prices(model: str) -> Prices:
    """The known prices of a model.

    Raises:
        ValueError: it is not in the table.
    """
    table = known_prices()
    prices = table.models.get(_SNAPSHOT.sub("", model))
    if prices is None:
        raise ValueError(
            f"anthropic.prices is not set, and {model} is not among the prices known on {table.as_of} "
            f"({', '.join(table.models)}): give anthropic.prices={{input: …, output: …}}, in dollars a million tokens"
        )
    return prices


class Estimate(NamedTuple):
    """Estimated cost of the outstanding questions."""

    n_questions: int
    input_tokens: float
    output_tokens: float
    usd: float


class Observed(NamedTuple):
    """Usage of earlier questions of a kind."""

    tokens_per_character: float | None
    """Tokens for each character of a question; None if its characters were not counted."""
    output_tokens: float
    """Mean number of tokens of an answer."""


def estimate(
    n_questions: int, characters: float, answer_tokens: float, prices: Prices, *, batch: bool = False
) -> Estimate:
    """The cost of questions with these numbers of characters, whose answers are expected to have these numbers of
    tokens.

    The provider's prompt cache is not considered.
    """
    share = prices.batch if batch else 1.0
    read = characters / CHARACTERS_PER_TOKEN
    usd = share * (read * prices.input + answer_tokens * prices.output) / 1e6
    return Estimate(n_questions, read, answer_tokens, usd)


def expected_tokens(purpose: Purpose, max_tokens: float) -> float:
    """Expected number of tokens of answers if no earlier one of the kind is known; `max_tokens` are allowed."""
    return max_tokens * (DESCRIPTION_SHARE if purpose in ("explain", "join") else OTHER_SHARE)
