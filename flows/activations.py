"""The stage `activations`: one pass over a corpus, then statistics and samples of every feature."""

from prefect import flow

from configs.run import RunConfig
from flows.costs.activations import activations_costs
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.inputs.checkpoint_plan import CheckpointPlan
from flows.recipes.activations import ActivationsRecipe
from flows.running.corpus import is_tokenised, missing_blocks, run_blocks, tokenise
from flows.running.engine import wait_for_all
from flows.running.stage import StageOutput, is_loaded, perform_alone
from storage.catalog.database import has_text, loaded_recipe, loaded_subject
from storage.checkpoints import open_checkpoint
from storage.shared_shards import ReuseCount, take_over_shards
from storage.store import missing_shards
from tasks.activations import neighbours
from tasks.activations.corpus_pass import (
    TABLES,
    SamplingJob,
    gather_shard,
    load_activations,
    load_texts,
    remove_or_pack_blocks,
)
from tasks.activations.neighbours import gather_neighbours


class ActivationsStage:
    """Statistics and samples of every feature on the corpus, and the text around the samples."""

    name = "activations"

    def output(self, plan: CheckpointPlan) -> StageOutput:
        recipe = ActivationsRecipe(plan)
        return StageOutput(self.name, recipe.recipe, recipe.corpus_id)

    def is_done(self, plan: CheckpointPlan) -> bool:
        return self._has_samples(plan) and _has_texts(plan)

    def _has_samples(self, plan: CheckpointPlan) -> bool:
        if not is_loaded(plan, self.output(plan)):
            return False
        passes = ActivationsRecipe(plan).passes
        return plan.config.activations.keep == "none" or not missing_blocks(plan, passes)

    def todo(self, plan: CheckpointPlan) -> dict[str, int | None]:
        recipe = ActivationsRecipe(plan)
        n_shards = len(missing_shards(plan.store, recipe.shards(), TABLES))
        if not is_tokenised(plan):
            return {"tokenise": 1, "activations": None, "samples": n_shards, "texts": 1}
        wanted = n_shards > 0 or plan.config.activations.keep == "all"
        n_blocks = len(missing_blocks(plan, recipe.passes)) if wanted else 0
        n_texts = 0 if _has_texts(plan) else 1
        return {"tokenise": 0, "activations": n_blocks, "samples": n_shards, "texts": n_texts}

    def costs(self, sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
        return activations_costs(sizes, config, rates)

    def run(self, plan: CheckpointPlan, run_id: str, reuse: ReuseCount) -> None:
        """Tokenise the corpus if needed, run it through the model, gather every shard."""
        store = plan.store
        open_checkpoint(store, plan.checkpoint_id)
        if not self._has_samples(plan):
            self._draw(plan, reuse)
        recipe = ActivationsRecipe(plan)
        missing = missing_shards(store, recipe.neighbour_shards(), (neighbours.TABLE,))
        futures = [gather_neighbours.submit(store, _job(recipe), key, recipe.recipe) for key in missing]
        wait_for_all(futures, "activations: neighbours")

    def _draw(self, plan: CheckpointPlan, reuse: ReuseCount) -> None:
        """Do all steps up to the samples."""
        config, store = plan.config, plan.store
        tokenise(plan)
        recipe = ActivationsRecipe(plan)
        missing = take_over_shards(store, recipe.shards(), TABLES, recipe.ingredients, reuse)
        if missing or config.activations.keep == "all":
            run_blocks(plan, missing_blocks(plan, recipe.passes), "activations: run")
        futures = [gather_shard.submit(store, _job(recipe), key) for key in missing]
        wait_for_all(futures, "activations: gather")
        if "coactivation" not in config.stages:  # it reads them, and then removes or packs them
            remove_or_pack_blocks(store, recipe.passes, config.activations.keep)

    def load(self, plan: CheckpointPlan, run_id: str) -> None:
        store, recipe = plan.store, ActivationsRecipe(plan)
        if not self._has_samples(plan):
            load_activations(store, _job(recipe), recipe.shards())
        if not _has_texts(plan):
            keep_text = plan.config.corpus.keep_text
            load_texts(store, _job(recipe), recipe.texts, recipe.neighbour_shards(), keep_text=keep_text)


ACTIVATIONS = ActivationsStage()


def _job(recipe: ActivationsRecipe) -> SamplingJob:
    """The inputs of the stage's tasks. The corpus must be tokenised."""
    plan = recipe.plan
    return SamplingJob(plan.checkpoint_id, recipe.corpus_id, tuple(recipe.passes), plan.config.activations)


def _has_texts(plan: CheckpointPlan) -> bool:
    """Whether the texts are loaded, and no other checkpoint's configuration has changed that since."""
    catalog, recipe = plan.store.catalog, ActivationsRecipe(plan)
    loaded = loaded_subject(plan.checkpoint_id, recipe.corpus_id)
    if loaded_recipe(catalog, loaded, "texts") != recipe.texts:
        return False
    return has_text(catalog, recipe.corpus_id) is plan.config.corpus.keep_text


@flow(name="activations", flow_run_name="activations {config.name}")
def activations(config: RunConfig, force: bool = False) -> str:
    """Run the corpus of a configuration through an ingested checkpoint; returns the corpus's id."""
    return ActivationsRecipe(perform_alone(ACTIVATIONS, config, force)).corpus_id
