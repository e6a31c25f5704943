"""What describing features can be told."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

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
    min_stability: Annotated[float, Ge(0), Le(1)] = 0.6
    """Clusters that hold less well when part of the samples is clustered again are described together, as one."""


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
    cache_write: Annotated[float, Ge(0)] | None = None
    """Tokens written to the provider's prompt cache; left out: as `input`."""
    cache_read: Annotated[float, Ge(0)] | None = None
    """Tokens read from it; left out: as `input`."""
    batch: Annotated[float, Gt(0), Le(1)] = 0.5
    """What a question of a batch costs, as a share of these."""


@dataclass(frozen=True)
class LLMSettings:
    """How language models behind an endpoint are asked, and for how much at most. Serves every endpoint."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    budget_usd: Annotated[float, Ge(0)] = 0.0
    """What one run may spend. A run whose estimate is above it sends nothing, and one that reaches it sends no more."""
    store_budget_usd: Annotated[float, Ge(0)] | None = None
    """What all runs on the store may spend together; left out: no limit."""
    month_budget_usd: Annotated[float, Ge(0)] | None = None
    """What all runs on the store may spend in a calendar month (UTC); left out: no limit."""
    max_tokens: Annotated[int, Gt(0)] = 300
    """Tokens of a description."""
    concurrency: Annotated[int, Gt(0)] = 4
    """Questions that are asked at the same time outside batches; fewer while the server says that it is busy."""
    retries: Annotated[int, Ge(0)] = 4
    """How often a question is sent again when the server is busy, fails or is not reached."""
    max_wait_s: Annotated[float, Gt(0)] = 60.0
    """Longest wait in seconds before that. A server that asks for a longer one is not asked any more in this run."""
    timeout_s: Annotated[float, Gt(0)] = 120.0
    """Seconds until an answer is given up."""
    max_failures: Annotated[int, Gt(0)] = 5
    """Questions in a row that get no answer, after which no more are sent. What was answered is kept."""
    poll_s: Annotated[float, Gt(0)] = 30.0
    """Seconds between looks at a batch."""
    max_batch: Annotated[int, Gt(0), Le(100_000)] = 10_000
    """Questions a batch."""


@dataclass(frozen=True)
class AnthropicSettings:
    """Which Claude is asked. The key is read from ANTHROPIC_API_KEY and from nowhere else."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    model: str | None = None
    """Name of the model, as the API has it."""
    prices: Prices | None = None
    """What it costs; left out: as in the table of known prices (`circuit-insights prices`)."""
    batch_above: Annotated[int, Ge(0)] | None = 20
    """More questions than this go as message batches, at a lower price within 24 hours; fewer are asked directly.
    null: never as a batch."""


@dataclass(frozen=True)
class OpenAISettings:
    """A server that speaks OpenAI's chat completions: OpenAI, OpenRouter, vLLM, llama.cpp, Ollama, LM Studio."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    base_url: str = "https://api.openai.com/v1"
    """Where the server is, up to and with /v1."""
    model: str | None = None
    """Name of the model, as the server has it."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key. A server on this machine or in a private network needs none."""
    prices: Prices | None = None
    """What the model costs. Left out: nothing, for a server on this machine or in a private network; for others they
    have to be given."""
    structured_output: Literal["auto", "json_schema", "none"] = "auto"
    """json_schema: the server is asked to keep to the schema of an answer. none: the schema stands in the question,
    and an answer that does not fit is shown to the model once, to be mended. auto: the former, unless the server
    refuses."""
    batch_above: Annotated[int, Ge(0)] | None = None
    """More questions than this go to the server's batch endpoint; null: never, few servers have one."""
