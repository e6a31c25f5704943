"""Settings without effect because of another setting: each such pair is refused by name.

A setting counts as set if its value differs from its default. A stage that is not run is no reason: a file describes
every stage, `stages` selects among them, and a step is switched off by one setting (such as
`circuitlens.ablated_features=0`), while its other settings stay.
"""

from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

if TYPE_CHECKING:
    from configs.run import RunConfig


class Condition(NamedTuple):
    """Settings that have an effect only under a condition."""

    names: tuple[str, ...]
    """Dotted names; the name of a section means all of its settings."""
    needs: str
    """The condition in words, with the name of the other setting."""
    is_met: Callable[["RunConfig"], bool]


def _asks(config: "RunConfig", who: str) -> bool:
    return who in (config.describe.explainer, config.evaluate.judge)


def _reads_fields(config: "RunConfig") -> bool:
    return any(
        source != "python-docs" and not source.endswith((".txt", ".txt.gz", ".txt.zst"))
        for source in config.corpus.sources
    )


def _trains_topk(config: "RunConfig") -> bool:
    return config.transcoder.train is None or config.transcoder.train.activation == "topk"


CONDITIONS = (
    Condition(("engine.dask_address",), "engine.runner=dask", lambda c: c.engine.runner == "dask"),
    Condition(
        ("engine.devices",),
        "engine.runner=dask, engine.device=auto or cuda, and neither engine.dask_address nor engine.workers",
        lambda c: c.engine.runner == "dask" and c.engine.device in ("auto", "cuda")
        and c.engine.dask_address is None and c.engine.workers is None,
    ),
    Condition(
        ("engine.bfloat16",),
        "engine.device=cpu, since a GPU screens nothing",
        lambda c: c.engine.device in ("auto", "cpu") or c.engine.bfloat16 is not True,
    ),
    Condition(
        ("corpus.text_field", "corpus.token_field"), "a corpus.source of files with lines or rows", _reads_fields
    ),
    Condition(("corpus.text_field",), "no corpus.token_field", lambda c: c.corpus.token_field is None),
    Condition(("corpus.tokenizer_sha256",), "corpus.token_field", lambda c: c.corpus.token_field is not None),
    Condition(("corpus.special_tokens",), "no corpus.token_field", lambda c: c.corpus.token_field is None),
    Condition(("transcoder.train.k",), "transcoder.train.activation=topk", _trains_topk),
    Condition(
        ("transcoder.train.sparsity",),
        "transcoder.train.activation=relu or jumprelu",
        lambda c: c.transcoder.train is None or not _trains_topk(c),
    ),
    Condition(("circuitlens.eps",), "circuitlens.clustering=dbscan", lambda c: c.circuitlens.clustering == "dbscan"),
    Condition(
        ("circuitlens.max_cut", "circuitlens.max_token_cut"),
        "circuitlens.clustering=ncut",
        lambda c: c.circuitlens.clustering == "ncut",
    ),
    Condition(
        ("circuitlens.continued_samples",),
        "circuitlens.continuation_tokens above 0",
        lambda c: c.circuitlens.continuation_tokens > 0,
    ),
    Condition(
        ("circuitlens.qk_heads", "circuitlens.qk_keys", "circuitlens.qk_pairs"),
        "circuitlens.qk_samples above 0",
        lambda c: c.circuitlens.qk_samples > 0,
    ),
    Condition(
        ("describe.seed",),
        "describe.features_per_layer or describe.sample",
        lambda c: c.describe.features_per_layer is not None or c.describe.sample is not None,
    ),
    Condition(
        ("evaluate.how.texts_per_question",),
        "evaluate.judge=anthropic, openai or local",
        lambda c: c.evaluate.judge != "rule",
    ),
    Condition(
        ("evaluate.how.n_surprisal",), "evaluate.surprisal naming a model", lambda c: c.evaluate.surprisal is not None
    ),
    Condition(
        ("evaluate.embedding_model",),
        "evaluate.embeddings being an address",
        lambda c: "://" in (c.evaluate.embeddings or ""),
    ),
    Condition(
        ("prompts.explain", "prompts.join"),
        "describe.explainer=anthropic, openai or local",
        lambda c: c.describe.explainer != "tokens",
    ),
    Condition(
        ("prompts.synthesise", "prompts.rate", "prompts.mark", "prompts.intruder", "prompts.simulate"),
        "evaluate.judge=anthropic, openai or local",
        lambda c: c.evaluate.judge != "rule",
    ),
    Condition(
        ("local_model",), "describe.explainer=local or evaluate.judge=local", lambda c: _asks(c, "local")
    ),
    Condition(
        ("anthropic",),
        "describe.explainer=anthropic or evaluate.judge=anthropic",
        lambda c: _asks(c, "anthropic"),
    ),
    Condition(
        ("openai",),
        "describe.explainer=openai or evaluate.judge=openai",
        lambda c: _asks(c, "openai"),
    ),
    Condition(
        ("llm",),
        "describe.explainer or evaluate.judge being anthropic or openai",
        lambda c: _asks(c, "anthropic") or _asks(c, "openai"),
    ),
    Condition(
        ("llm.max_tokens",),
        "describe.explainer=anthropic, openai or local",
        lambda c: c.describe.explainer != "tokens",
    ),
)  # fmt: skip

EXEMPT = ("llm.max_tokens",)
"""Settings to which the condition of the section above them does not apply."""


def unused(config: "RunConfig") -> list[str]:
    """For every setting that is set without effect, a sentence that names the other setting."""
    given, found = dict(_given("", config)), []
    for condition in CONDITIONS:
        if not condition.is_met(config):
            within = tuple(f"{name}." for name in condition.names)
            below = [name for name in given if name.startswith(within) and name not in EXEMPT]
            names = [*below, *(name for name in condition.names if name in given)]
            found += [_sentence(name, *given[name], condition.needs) for name in names]
    return found


def _sentence(name: str, value: Any, default: Any, needs: str) -> str:
    written = yaml.safe_dump(default, default_flow_style=True).removesuffix("\n").removesuffix("\n...")
    return f"{name} is set, to {value!r}, and has an effect only with {needs}; set that, or {name}={written}"


def _given(prefix: str, section: Any) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Value and default of every setting that differs from its default, by its dotted name."""
    for name, default in _defaults(section):
        value = getattr(section, name)
        if isinstance(value, BaseModel) or is_dataclass(value):
            yield from _given(f"{prefix}{name}.", value)
        elif value != default:
            yield f"{prefix}{name}", (value, default)


def _defaults(section: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(section, BaseModel):
        for name, field in type(section).model_fields.items():
            yield name, None if field.default is PydanticUndefined else field.default
    else:
        for field in fields(section):
            yield field.name, None if field.default is MISSING else field.default
