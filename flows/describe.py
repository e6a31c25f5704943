"""Descriptions of every feature by every method, worded by one explainer."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

from prefect import flow

from configs.run import RunConfig
from flows import activations
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.running.engine import n_workers
from flows.running.llm_budget import answer_all, model_name
from flows.running.stage import stage_recorded, store_held
from flows.subject.subject import Subject, identify, open_source
from interp.descriptions.evidence import Method
from interp.descriptions.llm_questions import PROMPT_VERSION
from storage.catalog.database import loaded_recipe
from storage.catalog.runs import new_run_id
from storage.checkpoints import open_checkpoint
from storage.recipes import short_hash
from storage.store import ShardKey, shards
from tasks.describe.describe import (
    SEES,
    VERSION,
    DescribeJob,
    describe_shard,
    forget_unanswered,
    is_described,
    load_descriptions,
    loaded_name,
)
from tasks.describe.evidence import SampledCorpus
from tasks.llm.anthropic_prices import estimate

_LEAVES = {"tokens": "weightlens", "samples": "activations", "circuits": "circuitlens"}

NEEDS: dict[Method, str] = {method: _LEAVES[kind] for method, kind in SEES.items()}
"""The stage that leaves in the catalog what a method looks at."""

DESCRIBE_S = 0.01
"""Seconds a feature and method to read its evidence and to word it by rule."""

BYTES_PER_DESCRIPTION = 250

CHARACTERS_PER_QUESTION = 7_500
"""Of a question about a feature's samples: 20 of 32 tokens each, and the instructions."""


CLUSTERS_PER_FEATURE = 4
"""About as many as the paper finds: 4.5 at Gemma-2-2B's layer 7, 2.8 at layer 12."""

CHARACTERS_PER_JOIN = 2_500
"""Of a question that joins clusters."""


@dataclass(frozen=True)
class Work:
    """What is described, under which recipe."""

    subject: Subject

    @cached_property
    def evidence(self) -> dict[str, str | None]:
        """The recipes of what the catalog holds, by stage."""
        store, checkpoint_id, corpus_id = self.subject.store, self.subject.checkpoint_id, self.corpus_id
        subjects = {"weightlens": checkpoint_id}
        subjects |= dict.fromkeys(("activations", "circuitlens"), f"{checkpoint_id} {corpus_id}")
        found = {stage: loaded_recipe(store.catalog, subject, stage) for stage, subject in subjects.items()}
        return {stage: None if recipe == "none" else recipe for stage, recipe in found.items()}

    @property
    def corpus_id(self) -> str:
        return activations.Work(self.subject).corpus_id

    @property
    def methods(self) -> tuple[Method, ...]:
        """Those asked for, or all whose evidence is there."""
        asked = self.subject.config.describe.methods
        return asked or tuple(method for method in get_args(Method) if self.evidence[NEEDS[method]] is not None)

    @property
    def recipe(self) -> str:
        config = self.subject.config
        used = sorted({NEEDS[method] for method in self.methods} | {"weightlens"})
        return short_hash(
            checkpoint=self.subject.checkpoint_id,
            corpus=self.corpus_id,
            evidence=[self.evidence[stage] for stage in used],
            methods=self.methods,
            explainer=config.describe.explainer,
            model=model_name(config, self.subject.store, config.describe.explainer),
            settings=[config.describe.evidence, config.describe.rule, config.wording, config.anthropic.max_tokens],
            drawn=[config.describe.features_per_layer, config.describe.seed],
            version=[VERSION, PROMPT_VERSION],
        )

    @property
    def task(self) -> DescribeJob:
        config = self.subject.config
        passes = activations.Work(self.subject).passes
        looks_at_samples = any(NEEDS[method] != "weightlens" for method in self.methods)
        return DescribeJob(
            checkpoint_id=self.subject.checkpoint_id,
            corpus_id=self.corpus_id,
            explainer=config.describe.explainer,
            methods=self.methods,
            sampled_corpus=SampledCorpus(self.corpus_id, tuple(one.corpus_id for one in passes))
            if looks_at_samples
            else None,
            evidence=config.describe.evidence,
            rule=config.describe.rule,
            wording=config.wording,
            max_tokens=config.anthropic.max_tokens,
            features_per_layer=config.describe.features_per_layer,
            seed=config.describe.seed,
            model=model_name(config, self.subject.store, config.describe.explainer),
        )

    def shards(self) -> list[ShardKey]:
        sizes, shard_size, recipe = self.subject.attributes, self.subject.config.shard_size, self.recipe
        layers = range(sizes.n_layers)
        return [key for layer in layers for key in shards(recipe, layer, sizes.d_transcoder, shard_size)]


def is_done(subject: Subject) -> bool:
    """Whether the catalog already holds what the configuration asks for."""
    explainer = loaded_name(subject.config.describe.explainer)
    work = Work(subject)
    return loaded_recipe(subject.store.catalog, f"{subject.checkpoint_id} {work.corpus_id}", explainer) == work.recipe


def todo(subject: Subject) -> dict[str, int]:
    """Step by step, how many tasks are left."""
    return {"describe": sum(not is_described(subject.store, key) for key in Work(subject).shards())}


def costs(sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
    """What each step takes, by its name."""
    methods = config.describe.methods or tuple(get_args(Method))
    n_features = sizes.n_layers * min(config.describe.features_per_layer or sizes.d_transcoder, sizes.d_transcoder)
    n = n_features * len(methods)
    usd = _questions_usd(config, sizes, methods, n_features) if config.describe.explainer == "anthropic" else 0.0
    n_shards = sizes.n_layers * -(-sizes.d_transcoder // config.shard_size)
    seconds = n * DESCRIBE_S / n_workers(config.engine)
    return {"describe": Cost(n_shards, seconds, n * BYTES_PER_DESCRIPTION, 0, 200e6, usd)}


def _questions_usd(config: RunConfig, sizes: Sizes, methods: Sequence[Method], n_features: int) -> float:
    """What a language model is paid for describing so many features: a question a feature and method, or one a cluster,
    which the methods of circuits share, and one a method to join them."""
    attributed = config.circuitlens.features_per_layer or sizes.d_transcoder
    n_attributed = min(n_features, sizes.n_layers * attributed)
    n_methods = sum(NEEDS[method] == "circuitlens" for method in methods)
    n_joins = n_attributed * n_methods
    n = n_features * (len(methods) - n_methods) + (n_attributed * CLUSTERS_PER_FEATURE if n_methods else 0)
    characters = n * CHARACTERS_PER_QUESTION + n_joins * CHARACTERS_PER_JOIN
    return estimate(n + n_joins, characters, (n + n_joins) * config.anthropic.max_tokens, config.anthropic).usd


def perform(subject: Subject, run_id: str) -> None:
    """Describe every shard, then load the catalog.

    Raises:
        ValueError: a method is asked for whose evidence is not there, or the questions cost more than the budget.
    """
    config, store, checkpoint_id = subject.config, subject.store, subject.checkpoint_id
    open_checkpoint(store, checkpoint_id)
    work = Work(subject)
    for method in work.methods:
        if work.evidence[NEEDS[method]] is None:
            raise ValueError(f"describe.methods: {method} looks at what the stage {NEEDS[method]} finds; run it first")
    if not work.methods:
        raise ValueError("describe: the catalog holds nothing to describe from; run weightlens or activations first")
    task, keys = work.task, work.shards()
    with stage_recorded(
        config, store, "describe", run_id, work.recipe, checkpoint_id=checkpoint_id, corpus_id=work.corpus_id
    ):
        for key in keys:
            forget_unanswered(store, key)
        answer_all(
            config, store, config.describe.explainer, run_id, keys,
            lambda key, unanswered: describe_shard.submit(store, task, key, unanswered), "describe",
        )  # fmt: skip
        load_descriptions(store, task, run_id, keys)


@flow(name="describe", flow_run_name="describe features of {config.name}")
def describe(config: RunConfig) -> str:
    """Describe the features of a checkpoint from what the catalog knows of them; returns its id."""
    subject = identify(open_source(config))
    open_checkpoint(subject.store, subject.checkpoint_id)
    if not is_done(subject):
        with store_held(config, subject.store, f"describe {config.name}"):
            perform(subject, new_run_id())
    return subject.checkpoint_id
