"""The stage `circuitlens`: the causes of samples, their clusters, and their effects."""

from prefect import flow

from configs.run import RunConfig
from flows.costs.circuitlens import circuitlens_costs
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.inputs.checkpoint_plan import CheckpointPlan
from flows.inputs.machine import arithmetic
from flows.recipes.activations import ActivationsRecipe
from flows.recipes.circuitlens import CircuitLensRecipe
from flows.running.corpus import is_tokenised
from flows.running.engine import wait_for_all
from flows.running.stage import StageOutput, is_loaded, perform_alone
from storage.activations import Block
from storage.attributions import attributions_path
from storage.catalog.database import loaded_recipe, loaded_subject
from storage.checkpoints import open_checkpoint
from storage.samples import samples_by_row_path
from storage.shared_shards import ReuseCount
from storage.store import ShardKey, missing_shards, remove_folder
from tasks.circuitlens.ablate import ablate_layer
from tasks.circuitlens.attribute import attribute_block
from tasks.circuitlens.gather import gather_circuits
from tasks.circuitlens.job import TABLES
from tasks.circuitlens.load import load_circuitlens
from tasks.circuitlens.order import order_samples


class CircuitLensStage:
    """Every chosen feature's samples, attributed, clustered by mechanism, and checked in the model."""

    name = "circuitlens"

    def output(self, plan: CheckpointPlan) -> StageOutput:
        recipe = CircuitLensRecipe(plan)
        return StageOutput(self.name, recipe.recipe, recipe.activations.corpus_id)

    def is_done(self, plan: CheckpointPlan) -> bool:
        return is_loaded(plan, self.output(plan))

    def todo(self, plan: CheckpointPlan) -> dict[str, int | None]:
        store, recipe = plan.store, CircuitLensRecipe(plan)
        blocks = _missing_blocks(recipe) if is_tokenised(plan) else None
        return {
            "order samples": None if blocks is None else len(_missing_orders(recipe)) if blocks else 0,
            "attribute": None if blocks is None else len(blocks),
            "cluster": len(missing_shards(store, recipe.shards(), TABLES)),
            "ablate": len(missing_shards(store, recipe.ablations(), ("scores",))),
        }

    def costs(self, sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
        return circuitlens_costs(sizes, config, rates)

    def run(self, plan: CheckpointPlan, run_id: str, reuse: ReuseCount) -> None:
        """Attribute all samples, cluster them by feature, check some by ablation.

        Raises:
            ValueError: the corpus has not been sampled.
        """
        store = plan.store
        open_checkpoint(store, plan.checkpoint_id)
        _refuse_without_samples(plan)
        recipe = CircuitLensRecipe(plan)
        job, blocks = recipe.job(arithmetic(plan.config.engine).device), _missing_blocks(recipe)
        if blocks:
            futures = [order_samples.submit(store, job, key) for key in _missing_orders(recipe)]
            wait_for_all(futures, "circuitlens: order samples")
        futures = [attribute_block.submit(store, job, block) for block in blocks]
        wait_for_all(futures, "circuitlens: attribute")
        missing = missing_shards(store, recipe.shards(), TABLES)
        wait_for_all([gather_circuits.submit(store, job, key) for key in missing], "circuitlens: cluster")
        missing = missing_shards(store, recipe.ablations(), ("scores",))
        wait_for_all([ablate_layer.submit(store, job, key) for key in missing], "circuitlens: ablate")

    def load(self, plan: CheckpointPlan, run_id: str) -> None:
        store, recipe = plan.store, CircuitLensRecipe(plan)
        load_circuitlens(store, recipe.job("cpu"), run_id, recipe.shards(), recipe.ablations())
        remove_folder(store.parts("attributions", recipe.recipe))


CIRCUITLENS = CircuitLensStage()


def _refuse_without_samples(plan: CheckpointPlan) -> None:
    samples = ActivationsRecipe(plan)
    loaded = loaded_subject(plan.checkpoint_id, samples.corpus_id)
    if loaded_recipe(plan.store.catalog, loaded, "activations") != samples.recipe:
        raise ValueError("circuitlens: the corpus has not been sampled with these settings; run `activations` first")


def _missing_blocks(recipe: CircuitLensRecipe) -> list[Block]:
    store = recipe.plan.store
    if not missing_shards(store, recipe.shards(), TABLES) and not missing_shards(
        store, recipe.ablations(), ("scores",)
    ):
        return []
    return [block for block in recipe.blocks if not attributions_path(store, recipe.recipe, *block).exists()]


def _missing_orders(recipe: CircuitLensRecipe) -> list[ShardKey]:
    """Shards of the samples that are not sorted by row yet."""
    store, keys = recipe.plan.store, recipe.activations.shards()
    return [key for key in keys if not samples_by_row_path(store, recipe.recipe, key).exists()]


@flow(name="circuitlens", flow_run_name="circuitlens {config.name}")
def circuitlens(config: RunConfig, force: bool = False) -> str:
    """Attribute and cluster the samples of an ingested checkpoint; returns the corpus's id."""
    return CircuitLensRecipe(perform_alone(CIRCUITLENS, config, force)).activations.corpus_id
