"""The stage `weightlens`: WeightLens for every feature of a checkpoint."""

from functools import partial
from pathlib import Path

from prefect import flow

from configs.run import RunConfig
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.costs.weightlens import weightlens_costs
from flows.inputs.checkpoint_plan import CheckpointPlan
from flows.inputs.machine import arithmetic
from flows.recipes.weightlens import WeightLensRecipe
from flows.running.engine import wait_for_all
from flows.running.stage import StageOutput, is_loaded, perform_alone
from storage.checkpoints import open_checkpoint, single_token_path
from storage.shared_shards import ReuseCount, take_over, take_over_shards
from storage.store import missing_shards
from tasks.weightlens.authors import describe_shard_as_authors
from tasks.weightlens.project import PROJECTED_TABLES, ProjectionJob, project_shard
from tasks.weightlens.propagate import PROPAGATED_TABLES, PropagationJob, load_weightlens, propagate_shard
from tasks.weightlens.single_token import (
    TOKENS_PER_BLOCK,
    SingleTokenJob,
    drop_single_token_blocks,
    single_token_block,
    single_token_layer,
)


class WeightLensStage:
    """Every feature from weights only: projected, validated by single tokens, described."""

    name = "weightlens"

    def output(self, plan: CheckpointPlan) -> StageOutput:
        return StageOutput(self.name, WeightLensRecipe(plan).recipe)

    def is_done(self, plan: CheckpointPlan) -> bool:
        return is_loaded(plan, self.output(plan))

    def todo(self, plan: CheckpointPlan) -> dict[str, int | None]:
        store, recipe = plan.store, WeightLensRecipe(plan)
        return {
            "single tokens": len(_blocks(plan)) if _layers_without_single_tokens(plan) else 0,
            "project": len(missing_shards(store, recipe.projected(), PROJECTED_TABLES)),
            "propagate": len(missing_shards(store, recipe.worded(), PROPAGATED_TABLES)),
        }

    def costs(self, sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
        return weightlens_costs(sizes, config, rates)

    def run(self, plan: CheckpointPlan, run_id: str, reuse: ReuseCount) -> None:
        """Project, validate, propagate and describe every feature."""
        config, store, checkpoint_id = plan.config, plan.store, plan.checkpoint_id
        open_checkpoint(store, checkpoint_id)
        recipe = WeightLensRecipe(plan)
        _single_tokens(plan, recipe)
        left = take_over_shards(store, recipe.projected(), PROJECTED_TABLES, recipe.projection_ingredients, reuse)
        job = ProjectionJob(checkpoint_id, config.weightlens, arithmetic(config.engine))
        wait_for_all([project_shard.submit(store, job, key) for key in left], "weightlens: project")
        words, authors = _words(recipe), config.weightlens.compat is not None
        tables = (*PROPAGATED_TABLES, "sequence_validation") if authors else PROPAGATED_TABLES
        for layer in plan.layers:  # a layer inherits from those below it
            keys = plan.shards(recipe.recipe, layer)
            left = take_over_shards(store, keys, tables, recipe.ingredients, reuse)
            work = describe_shard_as_authors if authors else propagate_shard
            wait_for_all([work.submit(store, words, key) for key in left], f"weightlens: propagate L{layer:02d}")

    def load(self, plan: CheckpointPlan, run_id: str) -> None:
        recipe = WeightLensRecipe(plan)
        load_weightlens(plan.store, plan.checkpoint_id, run_id, recipe.projected(), recipe.worded())


WEIGHTLENS = WeightLensStage()


def _blocks(plan: CheckpointPlan) -> range:
    """The first tokens of blocks of the vocabulary."""
    return range(0, plan.attributes.n_tokens, TOKENS_PER_BLOCK)


def _layers_without_single_tokens(plan: CheckpointPlan) -> list[int]:
    store, checkpoint_id, compat = plan.store, plan.checkpoint_id, plan.config.weightlens.compat
    if not plan.attributes.hooks.reads_stream:
        return []  # there are no candidates that they could validate
    return [layer for layer in plan.layers if not single_token_path(store, checkpoint_id, layer, compat).exists()]


def _words(recipe: WeightLensRecipe) -> PropagationJob:
    plan, config = recipe.plan, recipe.plan.config
    return PropagationJob(
        checkpoint_id=plan.checkpoint_id,
        model_path=plan.inputs.model.path,
        projections=recipe.projections,
        recipe=recipe.recipe,
        shard_size=config.shard_size,
        wording=config.wording,
        reads_stream=plan.attributes.hooks.reads_stream,
    )


def _single_tokens(plan: CheckpointPlan, recipe: WeightLensRecipe) -> None:
    store, checkpoint_id = plan.store, plan.checkpoint_id
    n_tokens, compat, starts = plan.attributes.n_tokens, plan.config.weightlens.compat, _blocks(plan)

    def places(checkpoint: str, layer: int) -> list[Path]:
        return [single_token_path(store, checkpoint, layer, compat)]

    left = [
        layer
        for layer in _layers_without_single_tokens(plan)
        if not take_over(store, recipe.single_token_ingredients(layer), checkpoint_id, partial(places, layer=layer))
    ]
    if left:
        job = SingleTokenJob(checkpoint_id, plan.inputs.model.path, compat, plan.arithmetic)
        ends = [(start, min(start + TOKENS_PER_BLOCK, n_tokens)) for start in starts]
        futures = [single_token_block.submit(store, job, start, stop) for start, stop in ends]
        wait_for_all(futures, "single tokens: run")
        futures = [single_token_layer.submit(store, job, layer, list(starts)) for layer in left]
        wait_for_all(futures, "single tokens: gather")
    drop_single_token_blocks(store, checkpoint_id, starts, compat)


@flow(name="weightlens", flow_run_name="weightlens {config.name}")
def weightlens(config: RunConfig, force: bool = False) -> str:
    """Describe an ingested checkpoint from its weights; returns its id."""
    return perform_alone(WEIGHTLENS, config, force).checkpoint_id
