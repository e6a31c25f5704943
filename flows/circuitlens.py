"""CircuitLens over the samples of a corpus: what caused them, how they group, what they do."""

from dataclasses import dataclass
from functools import cached_property

from prefect import flow

from configs.run import RunConfig
from flows import activations
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.running.engine import arithmetic, n_workers, wait_for_all
from flows.running.stage import stage_recorded, store_held
from flows.subject.subject import Subject, identify, open_source
from storage.activations import Block
from storage.attributions import attributions_path
from storage.catalog.database import loaded_recipe
from storage.catalog.runs import new_run_id
from storage.checkpoints import open_checkpoint
from storage.corpora.corpus import corpus_attributes
from storage.recipes import short_hash
from storage.store import ShardKey, remove_folder, shards
from tasks.circuitlens.circuitlens import (
    BATCH_BYTES,
    TABLES,
    VERSION,
    Sampled,
    ablate_layer,
    attribute_block,
    gather_circuits,
    load_circuitlens,
)
from tasks.models import TRANSCODERS

SAMPLES_PER_BLOCK, MOST_ROWS_PER_BLOCK = 20_000, 256
"""A task attributes about so many samples, of so many rows at most."""

FEATURES_PER_SHARD = 256
"""Features whose samples are gathered at once, at most."""

ACTIVE_PER_TOKEN = 50
"""Active features a layer at a token, where nothing is known of them."""

BYTES_PER_SAMPLE = 700
"""Parts and catalog rows: contributions above all."""

STEP_S = 20e-6
"""Seconds that a small product takes, whatever its size."""

GATHER_S = 0.0004
"""Seconds a sample to gather and to cluster it."""

ABLATED_VARIANTS = 11


def samples_per_feature(config: RunConfig) -> int:
    """How many are attributed, at most."""
    n_samples = config.activations.n_samples
    return min(config.circuitlens.samples_per_feature or n_samples, n_samples)


@dataclass(frozen=True)
class Work:
    """The recipes of attribution and of the causal check, and what they are cut into."""

    subject: Subject

    @property
    def sampling(self) -> activations.Work:
        return activations.Work(self.subject)

    @property
    def recipe(self) -> str:
        settings = self.subject.config.circuitlens
        return short_hash(samples=self.sampling.recipe, circuitlens=settings, version=VERSION)

    @property
    def sampled(self) -> Sampled:
        config, work = self.subject.config, self.sampling
        return Sampled(work.recipe, config.shard_size, tuple(work.passes))

    @cached_property
    def blocks(self) -> list[Block]:
        """The rows that were sampled, in blocks of about so many samples. The corpus has been tokenised."""
        last = self.sampling.passes[-1]
        n_rows = last.first_row + corpus_attributes(self.subject.store, last.corpus_id).n_sequences
        config, d_transcoder = self.subject.config, self.subject.attributes.d_transcoder
        n_features = min(config.circuitlens.features_per_layer or d_transcoder, d_transcoder)
        n_samples = self.subject.attributes.n_layers * n_features * samples_per_feature(config)
        step = max(1, min(MOST_ROWS_PER_BLOCK, SAMPLES_PER_BLOCK * n_rows // max(1, n_samples)))
        return [Block(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]

    def shards(self) -> list[ShardKey]:
        """Shards that each lie within one of the activations'."""
        attributes, recipe = self.subject.attributes, self.recipe
        keys = [
            key for layer in range(attributes.n_layers) for key in self.sampled.shards(layer, attributes.d_transcoder)
        ]
        return [
            part._replace(start=part.start + key.start, stop=part.stop + key.start)
            for key in keys
            for part in shards(recipe, key.layer, key.stop - key.start, FEATURES_PER_SHARD)
        ]

    def ablations(self) -> list[ShardKey]:
        """A key a layer for the causal check."""
        attributes = self.subject.attributes
        if not self.subject.config.circuitlens.ablated_features:
            return []
        recipe = short_hash(circuitlens=self.recipe, causal="check")
        return [ShardKey(recipe, layer, 0, attributes.d_transcoder) for layer in range(attributes.n_layers)]

    def missing_shards(self) -> list[ShardKey]:
        store = self.subject.store
        return [key for key in self.shards() if not all(store.part(table, key).exists() for table in TABLES)]

    def missing_ablations(self) -> list[ShardKey]:
        return [key for key in self.ablations() if not self.subject.store.part("scores", key).exists()]

    def missing_blocks(self) -> list[Block]:
        if not self.missing_shards() and not self.missing_ablations():
            return []
        paths = [(block, attributions_path(self.subject.store, self.recipe, *block)) for block in self.blocks]
        return [block for block, path in paths if not path.exists()]


def is_done(subject: Subject) -> bool:
    """Whether the catalog already holds what the configuration asks for."""
    work = Work(subject)
    loaded = f"{subject.checkpoint_id} {work.sampling.corpus_id}"
    return loaded_recipe(subject.store.catalog, loaded, "circuitlens") == work.recipe


def todo(subject: Subject) -> dict[str, int | None]:
    """Step by step, how many tasks are left; None: all, which are counted once the corpus is tokenised."""
    work = Work(subject)
    n_blocks = len(work.missing_blocks()) if work.sampling.is_tokenised else None
    return {"attribute": n_blocks, "cluster": len(work.missing_shards()), "ablate": len(work.missing_ablations())}


def costs(sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
    """What each step takes, by its name. A sequence is run once; a sample is carried back through half of it."""
    settings, workers, n_pos = config.circuitlens, n_workers(config.engine), config.corpus.n_pos
    n_features = sizes.n_layers * min(settings.features_per_layer or sizes.d_transcoder, sizes.d_transcoder)
    n_samples = n_features * samples_per_feature(config)
    rows = min(sizes.corpus_tokens * (1 - config.corpus.held_out) / n_pos, n_samples)
    encoders = 2 * sizes.n_layers * sizes.d_transcoder * sizes.d_model
    once = rows * n_pos * (sizes.model_flops + encoders)
    back = n_samples * (n_pos / 2) * (sizes.n_layers / 2) * 8 * sizes.d_model**2
    steps = rows * sizes.n_layers * (n_pos + 50) * STEP_S / workers
    layer = sizes.d_transcoder * sizes.d_model * 8
    held = max(layer, min(TRANSCODERS.max_bytes, sizes.n_layers * layer))
    frozen = n_pos * sizes.n_layers * ACTIVE_PER_TOKEN * sizes.d_model * 4
    result = SAMPLES_PER_BLOCK * (1_000 + sizes.d_model * 4)
    n_ablated = sizes.n_layers * settings.ablated_features * settings.ablated_samples
    ablating = n_ablated * ABLATED_VARIANTS * n_pos / 2 * sizes.model_flops / rates.products
    n_blocks = max(1, round(max(n_samples / SAMPLES_PER_BLOCK, rows / MOST_ROWS_PER_BLOCK)))
    per_shard = min(config.shard_size, FEATURES_PER_SHARD)
    model = 1.3 * sizes.model_bytes  # and the attention's values and outputs once more
    return {
        "attribute": Cost(
            n_blocks,
            (once + back) / rates.products + steps,
            n_samples * BYTES_PER_SAMPLE,
            model + held,
            frozen + BATCH_BYTES + result,
        ),
        "cluster": Cost(
            sizes.n_layers * -(-sizes.d_transcoder // per_shard),
            n_samples * GATHER_S / workers,
            0,
            0,
            per_shard * config.activations.n_samples * (2_000 + sizes.d_model * 4),
        ),
        "ablate": Cost(
            sizes.n_layers if n_ablated else 0,
            ablating + n_ablated * sizes.n_layers * 2e-3 / workers,
            0,
            model + held,
            0,
        ),
    }


def perform(subject: Subject, run_id: str) -> None:
    """Attribute all samples, cluster them by feature, check some by ablation, load the catalog.

    Raises:
        ValueError: the corpus has not been sampled.
    """
    config, store, checkpoint_id = subject.config, subject.store, subject.checkpoint_id
    open_checkpoint(store, checkpoint_id)
    if not activations.is_done(subject):
        raise ValueError("circuitlens: the corpus has not been sampled with these settings; run `activations` first")
    work = Work(subject)
    corpus_id, model_path, settings = work.sampling.corpus_id, subject.source.model.path, config.circuitlens
    device = arithmetic(config.engine).device
    with stage_recorded(
        config, store, "circuitlens", run_id, work.recipe, checkpoint_id=checkpoint_id, corpus_id=corpus_id
    ):
        sampled, blocks = work.sampled, work.blocks
        futures = [
            attribute_block.submit(store, checkpoint_id, model_path, work.recipe, sampled, block, settings, device)
            for block in work.missing_blocks()
        ]
        wait_for_all(futures, "circuitlens: attribute")
        futures = [
            gather_circuits.submit(store, checkpoint_id, corpus_id, key, sampled, blocks, settings)
            for key in work.missing_shards()
        ]
        wait_for_all(futures, "circuitlens: cluster")
        futures = [
            ablate_layer.submit(
                store, checkpoint_id, corpus_id, model_path, key, work.recipe, sampled, blocks, settings, device
            )
            for key in work.missing_ablations()
        ]
        wait_for_all(futures, "circuitlens: ablate")
        load_circuitlens(store, checkpoint_id, corpus_id, run_id, work.shards(), work.ablations())
        remove_folder(store.parts("attributions", work.recipe))


@flow(name="circuitlens", flow_run_name="circuitlens {config.name}")
def circuitlens(config: RunConfig) -> str:
    """Attribute and cluster the samples of an ingested checkpoint; returns the corpus's id."""
    subject = identify(open_source(config))
    open_checkpoint(subject.store, subject.checkpoint_id)
    if not is_done(subject):
        with store_held(config, subject.store, f"circuitlens {config.name}"):
            perform(subject, new_run_id())
    return Work(subject).sampling.corpus_id
