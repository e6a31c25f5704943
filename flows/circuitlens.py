"""The stage `circuitlens`: the causes of samples, their clusters, and their effects."""

from prefect import flow

from configs.run import RunConfig
from flows.costs.circuitlens import circuitlens_costs
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.recipes.activations import ActivationsRecipe
from flows.recipes.circuitlens import CircuitLensRecipe
from flows.running.corpus import is_tokenised
from flows.running.engine import wait_for_all
from flows.running.stage import is_loaded, perform_alone
from flows.subject.machine import arithmetic
from flows.subject.subject import Subject
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

    def recipe(self, subject: Subject) -> str:
        return CircuitLensRecipe(subject).recipe

    def corpus_id(self, subject: Subject) -> str:
        return CircuitLensRecipe(subject).activations.corpus_id

    def is_done(self, subject: Subject) -> bool:
        return is_loaded(self, subject)

    def todo(self, subject: Subject) -> dict[str, int | None]:
        store, recipe = subject.store, CircuitLensRecipe(subject)
        blocks = _missing_blocks(recipe) if is_tokenised(subject) else None
        return {
            "order samples": None if blocks is None else len(_missing_orders(recipe)) if blocks else 0,
            "attribute": None if blocks is None else len(blocks),
            "cluster": len(missing_shards(store, recipe.shards(), TABLES)),
            "ablate": len(missing_shards(store, recipe.ablations(), ("scores",))),
        }

    def costs(self, sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
        return circuitlens_costs(sizes, config, rates)

    def run(self, subject: Subject, run_id: str, reuse: ReuseCount) -> None:
        """Attribute all samples, cluster them by feature, check some by ablation.

        Raises:
            ValueError: the corpus has not been sampled.
        """
        store = subject.store
        open_checkpoint(store, subject.checkpoint_id)
        _refuse_without_samples(subject)
        recipe = CircuitLensRecipe(subject)
        job, blocks = recipe.job(arithmetic(subject.config.engine).device), _missing_blocks(recipe)
        if blocks:
            futures = [order_samples.submit(store, job, key) for key in _missing_orders(recipe)]
            wait_for_all(futures, "circuitlens: order samples")
        futures = [attribute_block.submit(store, job, block) for block in blocks]
        wait_for_all(futures, "circuitlens: attribute")
        missing = missing_shards(store, recipe.shards(), TABLES)
        wait_for_all([gather_circuits.submit(store, job, key) for key in missing], "circuitlens: cluster")
        missing = missing_shards(store, recipe.ablations(), ("scores",))
        wait_for_all([ablate_layer.submit(store, job, key) for key in missing], "circuitlens: ablate")

    def load(self, subject: Subject, run_id: str) -> None:
        store, recipe = subject.store, CircuitLensRecipe(subject)
        load_circuitlens(store, recipe.job("cpu"), run_id, recipe.shards(), recipe.ablations())
        remove_folder(store.parts("attributions", recipe.recipe))


CIRCUITLENS = CircuitLensStage()


def _refuse_without_samples(subject: Subject) -> None:
    samples = ActivationsRecipe(subject)
    loaded = loaded_subject(subject.checkpoint_id, samples.corpus_id)
    if loaded_recipe(subject.store.catalog, loaded, "activations") != samples.recipe:
        raise ValueError("circuitlens: the corpus has not been sampled with these settings; run `activations` first")


def _missing_blocks(recipe: CircuitLensRecipe) -> list[Block]:
    store = recipe.subject.store
    if not missing_shards(store, recipe.shards(), TABLES) and not missing_shards(
        store, recipe.ablations(), ("scores",)
    ):
        return []
    return [block for block in recipe.blocks if not attributions_path(store, recipe.recipe, *block).exists()]


def _missing_orders(recipe: CircuitLensRecipe) -> list[ShardKey]:
    """Shards of the samples that are not sorted by row yet."""
    store, keys = recipe.subject.store, recipe.activations.shards()
    return [key for key in keys if not samples_by_row_path(store, recipe.recipe, key).exists()]


@flow(name="circuitlens", flow_run_name="circuitlens {config.name}")
def circuitlens(config: RunConfig, force: bool = False) -> str:
    """Attribute and cluster the samples of an ingested checkpoint; returns the corpus's id."""
    return CIRCUITLENS.corpus_id(perform_alone(CIRCUITLENS, config, force))
