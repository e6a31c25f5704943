"""Descriptions of every feature by every method, worded by one explainer."""

from prefect import flow

from configs.run import RunConfig
from flows.costs.describe import describe_costs
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.recipes.describe import NEEDS, DescribeRecipe
from flows.running.llm_budget import Respondent, answer_all
from flows.running.stage import is_loaded, perform_alone
from flows.subject.subject import Subject
from storage.checkpoints import open_checkpoint
from storage.shared_shards import ReuseCount
from tasks.describe.describe import (
    REWORDS,
    DescribeJob,
    describe_shard,
    forget_unanswered,
    is_described,
    load_descriptions,
    loaded_name,
)
from tasks.describe.draw import Draw
from tasks.describe.evidence import SampledCorpus
from tasks.llm.instructions import instructions


class DescribeStage:
    """What the catalog knows of features, in words."""

    name = "describe"

    def recipe(self, subject: Subject) -> str:
        return DescribeRecipe(subject).recipe

    def corpus_id(self, subject: Subject) -> str:
        return DescribeRecipe(subject).corpus_id

    def is_done(self, subject: Subject) -> bool:
        return is_loaded(self, subject, loaded_name(subject.config.describe.explainer))

    def todo(self, subject: Subject) -> dict[str, int | None]:
        return {"describe": sum(not is_described(subject.store, key) for key in DescribeRecipe(subject).shards())}

    def costs(self, sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
        return describe_costs(sizes, config, rates)

    def run(self, subject: Subject, run_id: str, reuse: ReuseCount) -> None:
        """Describe every shard.

        Raises:
            ValueError: a method is asked for whose evidence is not there, or the questions cost more than the budget.
        """
        config, store = subject.config, subject.store
        open_checkpoint(store, subject.checkpoint_id)
        recipe = DescribeRecipe(subject)
        _refuse_without_evidence(recipe)
        job, keys = _job(recipe), recipe.shards()
        for key in keys:
            forget_unanswered(store, key)
        answer_all(
            Respondent(config, store, config.describe.explainer, run_id),
            keys,
            lambda key, unanswered: describe_shard.submit(store, job, key, unanswered),
            "describe",
        )

    def load(self, subject: Subject, run_id: str) -> None:
        recipe = DescribeRecipe(subject)
        load_descriptions(subject.store, _job(recipe), run_id, recipe.shards())


DESCRIBE = DescribeStage()


def _refuse_without_evidence(recipe: DescribeRecipe) -> None:
    for method in recipe.methods:
        if recipe.evidence[NEEDS[method]] is None:
            raise ValueError(f"describe.methods: {method} looks at what the stage {NEEDS[method]} finds; run it first")
        if method in REWORDS and recipe.model is None:
            raise ValueError(
                f"describe.methods: {method} rewords what WeightLens found, and describe.explainer=tokens says that in "
                "the same words; expected explainer anthropic, openai or local, or other methods"
            )
    if not recipe.methods:
        raise ValueError(
            "describe: the catalog holds nothing to describe from by rule but what weightlens says itself; run "
            "activations first"
        )


def _job(recipe: DescribeRecipe) -> DescribeJob:
    config = recipe.subject.config
    looks_at_samples = any(NEEDS[method] != "weightlens" for method in recipe.methods)
    corpora = tuple(one.corpus_id for one in recipe.activations.passes)
    return DescribeJob(
        checkpoint_id=recipe.subject.checkpoint_id,
        corpus_id=recipe.corpus_id,
        explainer=config.describe.explainer,
        methods=recipe.methods,
        sampled_corpus=SampledCorpus(recipe.corpus_id, corpora) if looks_at_samples else None,
        evidence=config.describe.evidence,
        rule=config.describe.rule,
        wording=config.wording,
        instructions=instructions(config.prompts.own),
        max_tokens=config.llm.max_tokens,
        draw=Draw(config.describe.features_per_layer, config.describe.sample, recipe.subject.attributes.n_layers),
        seed=config.describe.seed,
        model=recipe.model,
    )


@flow(name="describe", flow_run_name="describe features of {config.name}")
def describe(config: RunConfig, force: bool = False) -> str:
    """Describe the features of a checkpoint from what the catalog knows of them; returns its id."""
    return perform_alone(DESCRIBE, config, force).checkpoint_id
