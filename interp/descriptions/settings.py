"""Settings of the descriptions of features."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le


@dataclass(frozen=True)
class EvidenceSettings:
    """How much evidence a description may use."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    hashed_as: ClassVar = {"n_examples": "n_moments"}
    """Settings that recipes know by another name, so that renaming a setting makes no output anew."""

    n_examples: Annotated[int, Gt(0)] = 20
    """Sampled activations shown for a feature or a cluster."""
    before: Annotated[int, Ge(0)] = 24
    """Tokens of text shown before the firing token."""
    after: Annotated[int, Ge(0)] = 8
    """Tokens of text shown after the firing token."""
    n_causes: Annotated[int, Gt(0)] = 4
    """Causes found by CircuitLens that are shown, in tokens a sample."""
    min_cause_share: Annotated[float, Gt(0), Le(1)] = 0.1
    """A token is a cause if it has at least this share of the positive contributions of all tokens."""
    n_tokens: Annotated[int, Gt(0)] = 12
    """Input tokens and promoted tokens that are shown, each."""
    n_clusters: Annotated[int, Gt(0)] = 8
    """Clusters that get a description of their own, the largest first."""
    min_stability: Annotated[float, Ge(0), Le(1)] = 0.6
    """Clusters are described together, as one, if clustering a part of the samples again reproduces them less well than
    this (column `stability` of the table clusters)."""


@dataclass(frozen=True)
class RuleSettings:
    """How the explainer `tokens` puts sampled activations into words."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    max_words: Annotated[int, Gt(0)] = 6
    """Firing words named of one mechanism."""
    min_share: Annotated[float, Gt(0), Le(1)] = 0.05
    """A firing word is named if it has at least this share of the activation; the strongest is always named."""
    min_context: Annotated[float, Gt(0), Le(1)] = 0.3
    """A context is named if at least this share of the samples has it."""
    many: Annotated[float, Gt(0), Le(1)] = 0.5
    """If the named words have less than this share of the activation and there is a context, the description says that
    any word in that context is meant."""


@dataclass(frozen=True)
class Prices:
    """Prices in US dollars for a million tokens."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    input: Annotated[float, Ge(0)]
    output: Annotated[float, Ge(0)]
    cache_write: Annotated[float, Ge(0)] | None = None
    """Price of tokens written to the provider's prompt cache; left out: as `input`."""
    cache_read: Annotated[float, Ge(0)] | None = None
    """Price of tokens read from the prompt cache; left out: as `input`."""
    batch: Annotated[float, Gt(0), Le(1)] = 0.5
    """Price of a question in a batch, as a share of the others."""


@dataclass(frozen=True)
class LLMSettings:
    """How language models behind an endpoint are asked, and the limits on what they may cost. Applies to every
    endpoint."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    budget_usd: Annotated[float, Ge(0)] = 0.0
    """Limit for one run, in US dollars. A run whose estimate is above it sends nothing; one that reaches it stops
    sending."""
    store_budget_usd: Annotated[float, Ge(0)] | None = None
    """Limit for all runs on the store together, in US dollars; left out: no limit."""
    month_budget_usd: Annotated[float, Ge(0)] | None = None
    """Limit for all runs on the store in a calendar month (UTC), in US dollars; left out: no limit."""
    max_tokens: Annotated[int, Gt(0)] = 300
    """Longest description, in tokens."""
    concurrency: Annotated[int, Gt(0)] = 4
    """Questions sent at the same time, outside batches. It is lowered for as long as the server says that it is
    busy."""
    retries: Annotated[int, Ge(0)] = 4
    """How often a question is sent again after the server was busy, failed, or could not be reached."""
    max_wait_s: Annotated[float, Gt(0)] = 60.0
    """Longest wait before a question is sent again, in seconds. A server that asks for a longer wait gets no more
    questions in this run."""
    timeout_s: Annotated[float, Gt(0)] = 120.0
    """Seconds to wait for an answer."""
    max_failures: Annotated[int, Gt(0)] = 5
    """After this many failed questions in a row, the run sends no more. Answers that arrived are kept."""
    poll_s: Annotated[float, Gt(0)] = 30.0
    """Seconds between two checks whether a batch is finished."""
    max_batch: Annotated[int, Gt(0), Le(100_000)] = 10_000
    """Questions in one batch."""


@dataclass(frozen=True)
class AnthropicSettings:
    """The Claude model that is asked. The key is read from the environment variable ANTHROPIC_API_KEY only."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    model: str | None = None
    """Name of the model in the API."""
    prices: Prices | None = None
    """Its price; left out: from the table of known prices (`circuit-insights prices`)."""
    batch_above: Annotated[int, Ge(0)] | None = 20
    """More questions than this are sent as message batches, which cost less and take up to 24 hours; fewer are sent one
    by one. null: never as a batch."""


@dataclass(frozen=True)
class OpenAISettings:
    """A server with OpenAI's chat completions API: OpenAI, OpenRouter, vLLM, llama.cpp, Ollama, LM Studio."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True, "allow_inf_nan": False}

    base_url: str = "https://api.openai.com/v1"
    """Address of the server, with the /v1 at its end."""
    model: str | None = None
    """Name of the model on the server."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key. A server on this machine or in a private network needs none."""
    prices: Prices | None = None
    """Price of the model. Left out: nothing for a server on this machine or in a private network; required for any
    other."""
    structured_output: Literal["auto", "json_schema", "none"] = "auto"
    """json_schema: the server is asked to enforce the schema of an answer. none: the schema is part of the question,
    and an answer that does not fit is sent back to the model once for correction. auto: json_schema, unless the
    server refuses it."""
    batch_above: Annotated[int, Ge(0)] | None = None
    """More questions than this are sent to the server's batch endpoint; null: never (few servers have one)."""
