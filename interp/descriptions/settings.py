"""What describing features can be told."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le


@dataclass(frozen=True)
class EvidenceSettings:
    """How much a description may look at."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    n_moments: Annotated[int, Gt(0)] = 20
    """Sampled activations shown, a feature or cluster."""
    before: Annotated[int, Ge(0)] = 24
    """Tokens of text before the firing one."""
    after: Annotated[int, Ge(0)] = 8
    """Tokens after it."""
    n_causes: Annotated[int, Gt(0)] = 4
    """Tokens shown of the causes that CircuitLens found, a sample."""
    min_cause_share: Annotated[float, Gt(0), Le(1)] = 0.1
    """Share of the positive contributions of tokens that a cause has."""
    n_tokens: Annotated[int, Gt(0)] = 12
    """Tokens read and promoted that are shown, each."""
    n_clusters: Annotated[int, Gt(0)] = 8
    """Clusters described, the largest first."""


@dataclass(frozen=True)
class RuleSettings:
    """How the `tokens` explainer puts sampled activations into words."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    max_words: Annotated[int, Gt(0)] = 6
    """Words named of each kind."""
    min_share: Annotated[float, Gt(0), Le(1)] = 0.05
    """Share of the activation that a firing word has to have to be named; the strongest always is."""
    min_context: Annotated[float, Gt(0), Le(1)] = 0.3
    """Share of the activation at which a word stands before the firing one, to be named as its context."""
    many: Annotated[float, Gt(0), Le(1)] = 0.5
    """Where the words named have less than this share, and a context is there, any word after it is meant."""


@dataclass(frozen=True)
class Prices:
    """US dollars a million tokens."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    input: Annotated[float, Ge(0)]
    output: Annotated[float, Ge(0)]
    cache_write: Annotated[float, Ge(0)]
    cache_read: Annotated[float, Ge(0)]
    batch: Annotated[float, Gt(0), Le(1)] = 0.5
    """What a message of a batch costs, as a share of these."""


@dataclass(frozen=True)
class AnthropicSettings:
    """Who is asked, and for how much at most. The key is read from ANTHROPIC_API_KEY and from nowhere else."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    model: str | None = None
    """Name of the model, as the API has it."""
    prices: Prices | None = None
    """What it costs."""
    budget_usd: Annotated[float, Ge(0)] = 0.0
    """What one run may spend. A run whose estimate is above it sends nothing, and one that reaches it sends no more."""
    batch_above: Annotated[int, Ge(0)] = 20
    """More questions than this go as message batches, at a lower price within 24 hours; fewer are asked directly."""
    max_batch: Annotated[int, Gt(0), Le(100_000)] = 10_000
    """Questions a batch."""
    concurrency: Annotated[int, Gt(0)] = 4
    """Direct questions at once."""
    retries: Annotated[int, Ge(0)] = 4
    """How often a question is asked again when the API is busy, fails or is not reached."""
    max_wait_s: Annotated[float, Gt(0)] = 60.0
    """Seconds waited before that at most, whatever the API asks for."""
    timeout_s: Annotated[float, Gt(0)] = 120.0
    """Seconds until an answer is given up."""
    poll_s: Annotated[float, Gt(0)] = 30.0
    """Seconds between looks at a batch."""
    max_tokens: Annotated[int, Gt(0)] = 300
    """Tokens of a description."""
