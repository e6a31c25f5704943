"""Which features fire together on a corpus, and the TWERA edges that follow."""

import shutil
from dataclasses import dataclass

from prefect import flow
from prefect.artifacts import create_table_artifact

from configs.run import RunConfig
from flows import activations, weightlens
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.running.engine import n_workers, wait_for_all
from flows.running.stage import stage_recorded, store_held
from flows.subject.subject import Subject, identify, open_source, store_path
from storage.activations import block_path
from storage.catalog.database import loaded_recipe
from storage.catalog.runs import new_run_id
from storage.checkpoints import DECODER_ARRAYS, open_checkpoint
from storage.coactivation import make_matrices, matrices
from storage.recipes import short_hash
from storage.shared_shards import take_over_shards
from storage.store import ShardKey, shards
from tasks.activations.coactivation import VERSION, Summed, coactivate, load_coactivation, twera_shard
from tasks.activations.corpus_pass import remove_or_pack_blocks
from tasks.evaluation.stability import measure_stability, report, stability_path

TILE_S, EDGE_S = 4e-9, 3e-9
"""Seconds for a pair of active features at a token, and for an active token of a candidate edge."""

PAIR_BYTES, EMPTY_BYTES = 8.0, 0.1
"""Of a pair of features that were ever active together, and of one that never were, in the three matrices."""

EDGE_BYTES = 60
"""Of an edge in a part and in the catalog."""


@dataclass(frozen=True)
class Work:
    """The recipes of the sums of each corpus and of the edges, and their shards."""

    subject: Subject

    @property
    def activations(self) -> activations.Work:
        return activations.Work(self.subject)

    @property
    def corpus_id(self) -> str:
        return self.activations.corpus_id

    @property
    def has_matrices(self) -> bool:
        return self.subject.config.coactivation.pairs != "edges"

    @property
    def summed(self) -> list[Summed]:
        """The matrices of every corpus. A corpus whose matrices are there is not read again for them."""
        size = self.subject.config.shard_size
        return [
            Summed(corpus_pass, short_hash(activations=corpus_pass.recipe, chunks=size, version=VERSION))
            for corpus_pass in self.activations.passes
        ]

    @property
    def weightlens_recipe(self) -> str | None:
        """Of the projections from which edges or their z-scores are taken; None where WeightLens is left out."""
        config = self.subject.config
        wanted = "weightlens" in config.stages or config.coactivation.pairs == "edges"
        return weightlens.Work(self.subject).projection_recipe if wanted else None

    @property
    def recipe(self) -> str:
        """The recipe of the whole stage."""
        config = self.subject.config
        settings = config.coactivation
        return short_hash(
            passes=[corpus_pass.recipe for corpus_pass in self.activations.passes],
            pairs=settings.pairs,
            top_k=settings.top_k,
            min_support=settings.min_support,
            report_targets=settings.report_targets,
            fold_norms=config.weightlens.fold_norms,
            weightlens=self.weightlens_recipe,
            version=VERSION,
        )

    @property
    def ingredients(self) -> list[str]:
        """By layer, what its edges follow from: activations there and in the layers paired with it, both sides' arrays,
        and WeightLens's edges where they are looked at."""
        config, checkpoint = self.subject.config, weightlens.Work(self.subject).checkpoint
        active, settings, pairs = self.activations.ingredients, config.coactivation, self.layer_pairs
        projected = weightlens.Work(self.subject).projection_ingredients if self.weightlens_recipe else None
        names = ("norms_centred", "d_transcoder", "feature_input_hook", "feature_output_hook")
        found = []
        for layer in range(checkpoint.n_layers):
            sources = sorted({source for source, target in pairs if target == layer} | set(range(layer)))
            found.append(
                short_hash(
                    active=active[layer],
                    arrays=checkpoint.sha256(layer),
                    sources=[(at, active[at], checkpoint.sha256(at, *DECODER_ARRAYS)) for at in sources],
                    paired=[pair for pair in pairs if layer in pair],
                    settings=settings,
                    chunks=config.shard_size,
                    fold_norms=config.weightlens.fold_norms,
                    projected=None if projected is None else projected[layer],
                    version=VERSION,
                    **{name: getattr(self.subject.attributes, name) for name in names},
                )
            )
        return found

    @property
    def layer_pairs(self) -> list[tuple[int, int]]:
        return self.subject.config.coactivation.layer_pairs(self.subject.attributes.n_layers)

    def shards(self, recipe: str, layer: int) -> list[ShardKey]:
        return shards(recipe, layer, self.subject.attributes.d_transcoder, self.subject.config.shard_size)

    def all_shards(self) -> list[ShardKey]:
        return [key for layer in range(self.subject.attributes.n_layers) for key in self.shards(self.recipe, layer)]

    def missing_edges(self) -> list[ShardKey]:
        return [key for key in self.all_shards() if not self.subject.store.part("feature_edges", key).exists()]

    def missing_columns(self) -> list[tuple[Summed, int, ShardKey]]:
        """What has still to be summed up: (corpus, source layer, target shard)."""
        if not self.has_matrices:
            return []
        store, size = self.subject.store, self.subject.config.shard_size
        missing = []
        for each in self.summed:
            for source, target in self.layer_pairs:
                found = matrices(store, each.recipe, source, target, size)
                sources = [key.start for key in self.shards(each.recipe, source)]
                for key in self.shards(each.recipe, target):
                    if not all(found.has(start, key.start) for start in sources):
                        missing.append((each, source, key))
        return missing


def is_done(subject: Subject) -> bool:
    """Whether the catalog already holds what the configuration asks for."""
    work = Work(subject)
    loaded = f"{subject.checkpoint_id} {work.corpus_id}"
    if loaded_recipe(subject.store.catalog, loaded, "coactivation") != work.recipe:
        return False
    return not has_leftover_blocks(work)


def has_leftover_blocks(work: Work) -> bool:
    """Whether the activations stage left blocks for this one that are still to be put away."""
    store, passes = work.subject.store, work.activations.passes
    return work.activations.is_tokenised and any(
        block_path(store, corpus_pass.recipe, block).exists()
        for corpus_pass in passes
        for block in work.activations.blocks(corpus_pass)
    )


def todo(subject: Subject) -> dict[str, int]:
    """Step by step, how many tasks are left."""
    work = Work(subject)
    n_edges = len(work.missing_edges())
    return {"coactivation": len(work.missing_columns()) if n_edges else 0, "twera": n_edges}


def costs(sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
    """What each step takes, by its name."""
    settings, workers = config.coactivation, n_workers(config.engine)
    pairs = settings.layer_pairs(sizes.n_layers)
    tokens = sizes.corpus_tokens * (1 - config.corpus.held_out)
    n_shards = -(-sizes.d_transcoder // config.shard_size)
    n_edges = sizes.n_layers * sizes.d_transcoder * settings.top_k
    active = activations.ACTIVE_PER_TOKEN
    has_matrices = settings.pairs != "edges"
    disk = matrix_bytes(sizes, config) if has_matrices else 0
    tile = 40 * min(config.shard_size, sizes.d_transcoder) ** 2
    per_edge = 2 * tokens * active / sizes.d_transcoder
    return {
        "coactivation": Cost(
            len(pairs) * n_shards if has_matrices else 0,
            len(pairs) * tokens * active**2 * TILE_S / workers if has_matrices else 0,
            disk,
            0,
            tile,
        ),
        "twera": Cost(
            sizes.n_layers * n_shards,
            n_edges * per_edge * EDGE_S / workers
            + (2 * len(pairs) * sizes.d_transcoder**2 * sizes.d_model / rates.products if has_matrices else 0),
            n_edges * EDGE_BYTES,
            0,
            tile,
        ),
    }


def matrix_bytes(sizes: Sizes, config: RunConfig) -> float:
    """About what the matrices of all pairs of layers take, as if no two tokens made the same features fire together."""
    pairs = sizes.d_transcoder**2
    together = min(pairs, sizes.corpus_tokens * activations.ACTIVE_PER_TOKEN**2)
    n_layer_pairs = len(config.coactivation.layer_pairs(sizes.n_layers))
    return n_layer_pairs * (together * PAIR_BYTES + pairs * EMPTY_BYTES)


def refuse_what_does_not_fit(config: RunConfig, n_bytes: float) -> None:
    """Compare the matrices that are still to be written with the room there is in the store.

    Raises:
        ValueError: it is less; the message has both numbers.
    """
    place = store_path(config).resolve()
    existing = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if n_bytes > free:
        raise ValueError(
            f"coactivation.pairs: the matrices of {config.coactivation.pairs} take about {n_bytes / 1e9:.0f} GB, and "
            f"{existing} has {free / 1e9:.0f} GB free; set coactivation.pairs=edges, or name pairs of layers"
        )


def perform(subject: Subject, run_id: str) -> None:
    """Sum up the matrices that are missing, find every feature's strongest edges, load the catalog."""
    config, store, checkpoint_id = subject.config, subject.store, subject.checkpoint_id
    open_checkpoint(store, checkpoint_id)
    work = Work(subject)
    recipe, corpus_id = work.recipe, work.corpus_id
    with stage_recorded(
        config, store, "coactivation", run_id, recipe, checkpoint_id=checkpoint_id, corpus_id=corpus_id
    ) as tally:
        activations.tokenise(subject)
        missing = work.missing_edges()
        if missing:
            _refuse_without_weightlens(work)
            missing = take_over_shards(store, work.all_shards(), ("feature_edges",), work.ingredients, tally)
        if missing:
            activations.run_blocks(subject, work.activations)
            _sum_up(subject, work, {key.layer for key in missing})
        size, fold_norms, summed = config.shard_size, config.weightlens.fold_norms, work.summed
        known = work.weightlens_recipe
        futures = [
            twera_shard.submit(
                store, checkpoint_id, corpus_id, key, summed, config.coactivation, size, fold_norms,
                None if known is None else key._replace(recipe=known),
            )
            for key in missing
        ]  # fmt: skip
        wait_for_all(futures, "coactivation: edges")
        if missing:
            _report(subject, work)
        remove_or_pack_blocks(store, work.activations.passes, config.activations.keep)
        load_coactivation(store, checkpoint_id, corpus_id, work.summed, work.all_shards())


def _sum_up(subject: Subject, work: Work, targets: set[int]) -> None:
    """Sum up the matrices of some target layers."""
    store, size, n_features = subject.store, subject.config.shard_size, subject.attributes.d_transcoder
    missing = [column for column in work.missing_columns() if column[2].layer in targets]
    for each in work.summed if missing else []:
        for source, target in work.layer_pairs:
            if target in targets:
                make_matrices(matrices(store, each.recipe, source, target, size), n_features)
    futures = [coactivate.submit(store, each, source, key, n_features, size) for each, source, key in missing]
    wait_for_all(futures, "coactivation: sum up")


def _report(subject: Subject, work: Work) -> None:
    """Tell how far the edges depend on the text: a table in Prefect, figures and a plot in the store's reports."""
    config, store, folder = subject.config, subject.store, subject.store.reports(work.recipe)
    layers = sorted({target for _, target in work.layer_pairs})
    futures = [
        measure_stability.submit(
            store, subject.checkpoint_id, stability_path(folder, layer), layer, work.activations.passes,
            config.coactivation, config.weightlens.fold_norms, work.shards(work.activations.recipe, layer),
        )
        for layer in layers
    ]  # fmt: skip
    wait_for_all(futures, "coactivation: stability")
    if layers:
        create_table_artifact(report(folder, layers), key="convergence", description="How far edges depend on the text")


def _refuse_without_weightlens(work: Work) -> None:
    recipe = work.weightlens_recipe
    if recipe is not None and weightlens.Work(work.subject).n_missing(recipe, "feature_edges"):
        raise ValueError(
            "coactivation: WeightLens's edges are not in the store, from which pairs or z-scores are taken; run "
            "`weightlens` with the same settings first, or leave it out of stages and set coactivation.pairs=all"
        )


@flow(name="coactivation", flow_run_name="coactivation {config.name}")
def coactivation(config: RunConfig) -> str:
    """Find the TWERA edges of an ingested checkpoint on the corpus of a configuration; returns the corpus's id."""
    subject = identify(open_source(config))
    open_checkpoint(subject.store, subject.checkpoint_id)
    if not is_done(subject):
        with store_held(config, subject.store, f"coactivation {config.name}"):
            perform(subject, new_run_id())
    return Work(subject).corpus_id
