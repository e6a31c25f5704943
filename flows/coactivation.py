"""The stage `coactivation`: which features fire together on a corpus, and the TWERA edges."""

from prefect import flow
from prefect.artifacts import create_table_artifact

from configs.run import RunConfig
from flows.costs.coactivation import coactivation_costs
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.inputs.checkpoint_plan import CheckpointPlan
from flows.recipes.coactivation import CoactivationRecipe
from flows.running.corpus import is_tokenised, missing_blocks, run_blocks, tokenise
from flows.running.engine import wait_for_all
from flows.running.stage import StageOutput, is_loaded, perform_alone
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

    def output(self, plan: CheckpointPlan) -> StageOutput:
        recipe = CoactivationRecipe(plan)
        return StageOutput(self.name, recipe.recipe, recipe.activations.corpus_id)

    def is_done(self, plan: CheckpointPlan) -> bool:
        return is_loaded(plan, self.output(plan)) and not _has_leftover_blocks(plan)

    def todo(self, plan: CheckpointPlan) -> dict[str, int | None]:
        recipe = CoactivationRecipe(plan)
        missing = missing_shards(plan.store, recipe.shards(), TABLES)
        folder = plan.store.reports(recipe.recipe)
        left = [at for at in recipe.target_layers if not stability_path(folder, at).exists()]
        return {
            "coactivation": len(_missing_columns(recipe)) if missing else 0,
            "twera": len(missing),
            "stability": len(left) if missing else 0,
        }

    def costs(self, sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
        return coactivation_costs(sizes, config, rates)

    def run(self, plan: CheckpointPlan, run_id: str, reuse: ReuseCount) -> None:
        """Compute the missing matrices, then find every feature's strongest edges."""
        store = plan.store
        open_checkpoint(store, plan.checkpoint_id)
        tokenise(plan)
        recipe = CoactivationRecipe(plan)
        missing = missing_shards(store, recipe.shards(), TABLES)
        if missing:
            _refuse_without_weightlens(recipe)
            missing = take_over_shards(store, recipe.shards(), TABLES, recipe.ingredients, reuse)
        passes, job = recipe.activations.passes, recipe.job()
        if missing:
            run_blocks(plan, missing_blocks(plan, passes), "activations: run")
            _sum_up(recipe, {key.layer for key in missing})
        wait_for_all([twera_shard.submit(store, job, key) for key in missing], "coactivation: edges")
        if missing:
            _report(recipe, job)
        remove_or_pack_blocks(store, passes, plan.config.activations.keep)

    def load(self, plan: CheckpointPlan, run_id: str) -> None:
        recipe = CoactivationRecipe(plan)
        load_coactivation(plan.store, recipe.job(), recipe.shards())


COACTIVATION = CoactivationStage()


def _has_leftover_blocks(plan: CheckpointPlan) -> bool:
    """Whether blocks of the activations stage are left that this stage still has to remove or pack."""
    store, passes = plan.store, CoactivationRecipe(plan).activations.passes
    return is_tokenised(plan) and any(
        block_path(store, corpus_pass.recipe, block).exists()
        for corpus_pass in passes
        for block in corpus_pass.blocks(store)
    )


def _missing_columns(recipe: CoactivationRecipe) -> list[tuple[Summed, int, ShardKey]]:
    """The matrices that are still to be computed: (corpus, source layer, target shard)."""
    plan, config = recipe.plan, recipe.plan.config
    if config.coactivation.pairs == "edges":
        return []
    missing = []
    for each in recipe.summed:
        for source, target in recipe.layer_pairs:
            found = matrices(plan.store, each.recipe, source, target, config.shard_size)
            sources = [key.start for key in plan.shards(each.recipe, source)]
            for key in plan.shards(each.recipe, target):
                if not all(found.has(start, key.start) for start in sources):
                    missing.append((each, source, key))
    return missing


def _sum_up(recipe: CoactivationRecipe, targets: set[int]) -> None:
    """Compute the matrices of some target layers."""
    store, size = recipe.plan.store, recipe.plan.config.shard_size
    n_features = recipe.plan.attributes.d_transcoder
    missing = [column for column in _missing_columns(recipe) if column[2].layer in targets]
    for each in recipe.summed if missing else []:
        for source, target in recipe.layer_pairs:
            if target in targets:
                make_matrices(matrices(store, each.recipe, source, target, size), n_features)
    futures = [coactivate.submit(store, each, source, key, n_features, size) for each, source, key in missing]
    wait_for_all(futures, "coactivation: sum up")


def _report(recipe: CoactivationRecipe, job: EdgesJob) -> None:
    """Report how much the edges depend on the text: a table in Prefect, figures and a plot in the store's reports."""
    plan, folder = recipe.plan, recipe.plan.store.reports(recipe.recipe)
    layers, samples = recipe.target_layers, recipe.activations.recipe
    futures = [
        measure_stability.submit(plan.store, job, stability_path(folder, layer), layer, plan.shards(samples, layer))
        for layer in layers
    ]
    wait_for_all(futures, "coactivation: stability")
    if layers:
        create_table_artifact(
            report(folder, layers), key="convergence", description="How much edges depend on the text"
        )


def _refuse_without_weightlens(recipe: CoactivationRecipe) -> None:
    known = recipe.weightlens
    if known is not None and missing_shards(recipe.plan.store, known.projected(), TABLES):
        raise ValueError(
            "coactivation: WeightLens's edges, which give the pairs or z-scores, are not in the store; run "
            "`weightlens` with the same settings first, or leave it out of stages and set coactivation.pairs=all"
        )


@flow(name="coactivation", flow_run_name="coactivation {config.name}")
def coactivation(config: RunConfig, force: bool = False) -> str:
    """Find the TWERA edges of an ingested checkpoint on the corpus of a configuration; returns the corpus's id."""
    return CoactivationRecipe(perform_alone(COACTIVATION, config, force)).activations.corpus_id
