"""The stage `coactivation`: which features fire together on a corpus, and the TWERA edges."""

from prefect import flow
from prefect.artifacts import create_table_artifact

from configs.run import RunConfig
from flows.costs.coactivation import coactivation_costs
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.recipes.coactivation import CoactivationRecipe
from flows.running.corpus import is_tokenised, missing_blocks, run_blocks, tokenise
from flows.running.engine import wait_for_all
from flows.running.stage import is_loaded, perform_alone
from flows.subject.subject import Subject
from storage.activations import block_path
from storage.checkpoints import open_checkpoint
from storage.coactivation import make_matrices, matrices
from storage.shared_shards import ReuseCount, take_over_shards
from storage.store import ShardKey, missing_shards
from tasks.activations.coactivation import EdgesJob, Summed, coactivate, load_coactivation, twera_shard
from tasks.activations.corpus_pass import remove_or_pack_blocks
from tasks.evaluation.stability import measure_stability, report, stability_path

TABLES = ("feature_edges",)


class CoactivationStage:
    """Co-activation matrices, and every feature's strongest edges by TWERA."""

    name = "coactivation"

    def recipe(self, subject: Subject) -> str:
        return CoactivationRecipe(subject).recipe

    def corpus_id(self, subject: Subject) -> str:
        return CoactivationRecipe(subject).activations.corpus_id

    def is_done(self, subject: Subject) -> bool:
        return is_loaded(self, subject) and not _has_leftover_blocks(subject)

    def todo(self, subject: Subject) -> dict[str, int | None]:
        recipe = CoactivationRecipe(subject)
        missing = missing_shards(subject.store, recipe.shards(), TABLES)
        folder = subject.store.reports(recipe.recipe)
        left = [at for at in recipe.target_layers if not stability_path(folder, at).exists()]
        return {
            "coactivation": len(_missing_columns(recipe)) if missing else 0,
            "twera": len(missing),
            "stability": len(left) if missing else 0,
        }

    def costs(self, sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
        return coactivation_costs(sizes, config, rates)

    def run(self, subject: Subject, run_id: str, reuse: ReuseCount) -> None:
        """Compute the missing matrices, then find every feature's strongest edges."""
        store = subject.store
        open_checkpoint(store, subject.checkpoint_id)
        tokenise(subject)
        recipe = CoactivationRecipe(subject)
        missing = missing_shards(store, recipe.shards(), TABLES)
        if missing:
            _refuse_without_weightlens(recipe)
            missing = take_over_shards(store, recipe.shards(), TABLES, recipe.ingredients, reuse)
        passes, job = recipe.activations.passes, recipe.job()
        if missing:
            run_blocks(subject, missing_blocks(subject, passes), "activations: run")
            _sum_up(recipe, {key.layer for key in missing})
        wait_for_all([twera_shard.submit(store, job, key) for key in missing], "coactivation: edges")
        if missing:
            _report(recipe, job)
        remove_or_pack_blocks(store, passes, subject.config.activations.keep)

    def load(self, subject: Subject, run_id: str) -> None:
        recipe = CoactivationRecipe(subject)
        load_coactivation(subject.store, recipe.job(), recipe.shards())


COACTIVATION = CoactivationStage()


def _has_leftover_blocks(subject: Subject) -> bool:
    """Whether blocks of the activations stage are left that this stage still has to remove or pack."""
    store, passes = subject.store, CoactivationRecipe(subject).activations.passes
    return is_tokenised(subject) and any(
        block_path(store, corpus_pass.recipe, block).exists()
        for corpus_pass in passes
        for block in corpus_pass.blocks(store)
    )


def _missing_columns(recipe: CoactivationRecipe) -> list[tuple[Summed, int, ShardKey]]:
    """The matrices that are still to be computed: (corpus, source layer, target shard)."""
    subject, config = recipe.subject, recipe.subject.config
    if config.coactivation.pairs == "edges":
        return []
    missing = []
    for each in recipe.summed:
        for source, target in recipe.layer_pairs:
            found = matrices(subject.store, each.recipe, source, target, config.shard_size)
            sources = [key.start for key in subject.shards(each.recipe, source)]
            for key in subject.shards(each.recipe, target):
                if not all(found.has(start, key.start) for start in sources):
                    missing.append((each, source, key))
    return missing


def _sum_up(recipe: CoactivationRecipe, targets: set[int]) -> None:
    """Compute the matrices of some target layers."""
    store, size = recipe.subject.store, recipe.subject.config.shard_size
    n_features = recipe.subject.attributes.d_transcoder
    missing = [column for column in _missing_columns(recipe) if column[2].layer in targets]
    for each in recipe.summed if missing else []:
        for source, target in recipe.layer_pairs:
            if target in targets:
                make_matrices(matrices(store, each.recipe, source, target, size), n_features)
    futures = [coactivate.submit(store, each, source, key, n_features, size) for each, source, key in missing]
    wait_for_all(futures, "coactivation: sum up")


def _report(recipe: CoactivationRecipe, job: EdgesJob) -> None:
    """Report how much the edges depend on the text: a table in Prefect, figures and a plot in the store's reports."""
    subject, folder = recipe.subject, recipe.subject.store.reports(recipe.recipe)
    layers, samples = recipe.target_layers, recipe.activations.recipe
    futures = [
        measure_stability.submit(
            subject.store, job, stability_path(folder, layer), layer, subject.shards(samples, layer)
        )
        for layer in layers
    ]
    wait_for_all(futures, "coactivation: stability")
    if layers:
        create_table_artifact(
            report(folder, layers), key="convergence", description="How much edges depend on the text"
        )


def _refuse_without_weightlens(recipe: CoactivationRecipe) -> None:
    known = recipe.weightlens
    if known is not None and missing_shards(recipe.subject.store, known.projected(), TABLES):
        raise ValueError(
            "coactivation: WeightLens's edges, which give the pairs or z-scores, are not in the store; run "
            "`weightlens` with the same settings first, or leave it out of stages and set coactivation.pairs=all"
        )


@flow(name="coactivation", flow_run_name="coactivation {config.name}")
def coactivation(config: RunConfig, force: bool = False) -> str:
    """Find the TWERA edges of an ingested checkpoint on the corpus of a configuration; returns the corpus's id."""
    return COACTIVATION.corpus_id(perform_alone(COACTIVATION, config, force))
