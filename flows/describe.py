"""The stage `describe`: descriptions of every feature by every method, with one explainer."""

from prefect import flow

from configs.run import RunConfig
from flows.costs.describe import describe_costs
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.inputs.checkpoint_plan import CheckpointPlan
from flows.recipes.describe import DescribeRecipe
from flows.running.engine import wait_for_all
from flows.running.llm_budget import Respondent, answer_all
from flows.running.stage import StageOutput, is_loaded, perform_alone
from storage.checkpoints import open_checkpoint
from storage.shared_shards import ReuseCount
from storage.store import missing_shards
from tasks.describe.describe import (
    LOOKS_AT_SAMPLES,
    REWORDS,
    SEES,
    DescribeJob,
    describe_shard,
    forget_unanswered,
    is_described,
    load_descriptions,
    loaded_name,
)
from tasks.describe.draw import Draw
from tasks.describe.evidence import SampledCorpus
from tasks.describe.wiring import TABLE as INHERITED
from tasks.describe.wiring import wire_shard
from tasks.llm.instructions import instructions


class DescribeStage:
    """Descriptions from the results of earlier stages."""

    name = "describe"

    def output(self, plan: CheckpointPlan) -> StageOutput:
        recipe = DescribeRecipe(plan)
        return StageOutput(loaded_name(plan.config.describe.explainer), recipe.recipe, recipe.corpus_id)

    def is_done(self, plan: CheckpointPlan) -> bool:
        return is_loaded(plan, self.output(plan))

    def todo(self, plan: CheckpointPlan) -> dict[str, int | None]:
        recipe, store = DescribeRecipe(plan), plan.store
        wiring = recipe.planned_wiring
        keys = [] if wiring is None else plan.all_shards(wiring.recipe)
        left = sum(not is_described(store, key) for key in recipe.shards())
        return {"wire": len(missing_shards(store, keys, (INHERITED,))) if left else 0, "describe": left}

    def costs(self, sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
        return describe_costs(sizes, config, rates)

    def run(self, plan: CheckpointPlan, run_id: str, reuse: ReuseCount) -> None:
        """Describe every shard.

        Raises:
            ValueError: a method is asked for whose evidence is not there, or the questions cost more than the budget.
        """
        config, store = plan.config, plan.store
        open_checkpoint(store, plan.checkpoint_id)
        recipe = DescribeRecipe(plan)
        _refuse_without_evidence(recipe)
        job, keys = _job(recipe), recipe.shards()
        if job.wiring is not None:
            for layer in plan.layers:  # a layer inherits from those below it
                missing = missing_shards(store, plan.shards(job.wiring.recipe, layer), (INHERITED,))
                wired = [wire_shard.submit(store, job.wiring, key) for key in missing]
                wait_for_all(wired, f"describe: wire L{layer:02d}")
        for key in keys:
            forget_unanswered(store, key)
        answer_all(
            Respondent(config, store, config.describe.explainer, run_id),
            keys,
            lambda key, unanswered: describe_shard.submit(store, job, key, unanswered),
            "describe",
        )

    def load(self, plan: CheckpointPlan, run_id: str) -> None:
        recipe = DescribeRecipe(plan)
        load_descriptions(plan.store, _job(recipe), run_id, recipe.shards())


DESCRIBE = DescribeStage()


def _refuse_without_evidence(recipe: DescribeRecipe) -> None:
    for method in recipe.methods:
        for stage in recipe.lacks(method):
            if reason := recipe.plan.left_out.get(stage):
                raise ValueError(f"describe.methods: {method} looks at what the stage {stage} finds, and here {reason}")
            raise ValueError(f"describe.methods: {method} looks at what the stage {stage} finds; run it first")
        if method in REWORDS and recipe.model is None:
            raise ValueError(
                f"describe.methods: {method} rewords WeightLens's description, and describe.explainer=tokens gives "
                "the same text again; expected explainer anthropic, openai or local, or other methods"
            )
    if not recipe.methods:
        raise ValueError(
            "describe: beyond weightlens's own, the catalog has no evidence for descriptions by rule; run "
            "activations first"
        )


def _job(recipe: DescribeRecipe) -> DescribeJob:
    config = recipe.plan.config
    looks_at_samples = any(SEES[method] in LOOKS_AT_SAMPLES for method in recipe.methods)
    corpora = tuple(one.corpus_id for one in recipe.activations.passes)
    return DescribeJob(
        checkpoint_id=recipe.plan.checkpoint_id,
        corpus_id=recipe.corpus_id,
        explainer=config.describe.explainer,
        methods=recipe.methods,
        sampled_corpus=SampledCorpus(recipe.corpus_id, corpora) if looks_at_samples else None,
        evidence=config.describe.evidence,
        rule=config.describe.rule,
        wording=config.wording,
        instructions=instructions(config.prompts.own),
        max_tokens=config.llm.max_tokens,
        draw=Draw(
            config.describe.features_per_layer,
            config.describe.sample,
            recipe.plan.layers,
            config.transcoder.only_features,
        ),
        seed=config.describe.seed,
        wiring=recipe.wiring,
        left_out=recipe.left_out,
        model=recipe.model,
    )


@flow(name="describe", flow_run_name="describe features of {config.name}")
def describe(config: RunConfig, force: bool = False) -> str:
    """Describe the features of a checkpoint from what the catalog knows of them; returns its id."""
    return perform_alone(DESCRIBE, config, force).checkpoint_id
