"""The stage `activations`: one pass over a corpus, then statistics and samples of every feature."""

from prefect import flow

from configs.run import RunConfig
from flows.costs.activations import activations_costs
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.recipes.activations import ActivationsRecipe
from flows.running.corpus import is_tokenised, missing_blocks, run_blocks, tokenise
from flows.running.engine import wait_for_all
from flows.running.stage import is_loaded, perform_alone
from flows.subject.subject import Subject
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

    def recipe(self, subject: Subject) -> str:
        return ActivationsRecipe(subject).recipe

    def corpus_id(self, subject: Subject) -> str:
        return ActivationsRecipe(subject).corpus_id

    def is_done(self, subject: Subject) -> bool:
        return self._has_samples(subject) and _has_texts(subject)

    def _has_samples(self, subject: Subject) -> bool:
        if not is_loaded(self, subject):
            return False
        passes = ActivationsRecipe(subject).passes
        return subject.config.activations.keep == "none" or not missing_blocks(subject, passes)

    def todo(self, subject: Subject) -> dict[str, int | None]:
        recipe = ActivationsRecipe(subject)
        n_shards = len(missing_shards(subject.store, recipe.shards(), TABLES))
        if not is_tokenised(subject):
            return {"tokenise": 1, "activations": None, "samples": n_shards, "texts": 1}
        wanted = n_shards > 0 or subject.config.activations.keep == "all"
        n_blocks = len(missing_blocks(subject, recipe.passes)) if wanted else 0
        n_texts = 0 if _has_texts(subject) else 1
        return {"tokenise": 0, "activations": n_blocks, "samples": n_shards, "texts": n_texts}

    def costs(self, sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
        return activations_costs(sizes, config, rates)

    def run(self, subject: Subject, run_id: str, reuse: ReuseCount) -> None:
        """Tokenise the corpus if needed, run it through the model, gather every shard."""
        store = subject.store
        open_checkpoint(store, subject.checkpoint_id)
        if not self._has_samples(subject):
            self._draw(subject, reuse)
        recipe = ActivationsRecipe(subject)
        missing = missing_shards(store, recipe.neighbour_shards(), (neighbours.TABLE,))
        futures = [gather_neighbours.submit(store, _job(recipe), key, recipe.recipe) for key in missing]
        wait_for_all(futures, "activations: neighbours")

    def _draw(self, subject: Subject, reuse: ReuseCount) -> None:
        """Do all steps up to the samples."""
        config, store = subject.config, subject.store
        tokenise(subject)
        recipe = ActivationsRecipe(subject)
        missing = take_over_shards(store, recipe.shards(), TABLES, recipe.ingredients, reuse)
        if missing or config.activations.keep == "all":
            run_blocks(subject, missing_blocks(subject, recipe.passes), "activations: run")
        futures = [gather_shard.submit(store, _job(recipe), key) for key in missing]
        wait_for_all(futures, "activations: gather")
        if "coactivation" not in config.stages:  # it reads them, and then removes or packs them
            remove_or_pack_blocks(store, recipe.passes, config.activations.keep)

    def load(self, subject: Subject, run_id: str) -> None:
        store, recipe = subject.store, ActivationsRecipe(subject)
        if not self._has_samples(subject):
            load_activations(store, _job(recipe), recipe.shards())
        if not _has_texts(subject):
            keep_text = subject.config.corpus.keep_text
            load_texts(store, _job(recipe), recipe.texts, recipe.neighbour_shards(), keep_text=keep_text)


ACTIVATIONS = ActivationsStage()


def _job(recipe: ActivationsRecipe) -> SamplingJob:
    """The inputs of the stage's tasks. The corpus must be tokenised."""
    subject = recipe.subject
    return SamplingJob(subject.checkpoint_id, recipe.corpus_id, tuple(recipe.passes), subject.config.activations)


def _has_texts(subject: Subject) -> bool:
    """Whether the texts are loaded, and no other checkpoint's configuration has changed that since."""
    catalog, recipe = subject.store.catalog, ActivationsRecipe(subject)
    loaded = loaded_subject(subject.checkpoint_id, recipe.corpus_id)
    if loaded_recipe(catalog, loaded, "texts") != recipe.texts:
        return False
    return has_text(catalog, recipe.corpus_id) is subject.config.corpus.keep_text


@flow(name="activations", flow_run_name="activations {config.name}")
def activations(config: RunConfig, force: bool = False) -> str:
    """Run the corpus of a configuration through an ingested checkpoint; returns the corpus's id."""
    return ACTIVATIONS.corpus_id(perform_alone(ACTIVATIONS, config, force))
