"""WeightLens over every feature of a checkpoint."""

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.futures import PrefectFuture

from configs.run import RunConfig
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.running.engine import arithmetic, wait_for_all
from flows.running.stage import stage_recorded, store_held
from flows.subject.subject import Subject, identify, open_source
from interp.projection import POOL_ROOM
from interp.weightlens.settings import Compat
from storage.catalog.database import loaded_recipe
from storage.catalog.runs import new_run_id
from storage.checkpoints import DECODER_ARRAYS, ENCODER_ARRAYS, Checkpoint, open_checkpoint, single_token_path
from storage.recipes import short_hash
from storage.shared_shards import take_over, take_over_shards
from storage.store import ShardKey, shards
from tasks.weightlens.authors import describe_shard_as_authors
from tasks.weightlens.project import COLUMN_BLOCKS, PROJECTED_TABLES, VERSION, project_shard
from tasks.weightlens.propagate import PROPAGATED_TABLES, WORDING_VERSION, load_weightlens, propagate_shard
from tasks.weightlens.single_token import drop_single_token_blocks, single_token_block, single_token_layer

TOKENS_PER_BLOCK = 2048
"""Vocabulary entries a single-token task runs through the model."""

PARTS_BYTES_PER_FEATURE = 2_100
"""Parquet parts and catalog rows a feature: 2,040 in store/demo after `make demo`, both over 4,096 features."""

PROPAGATE_S = 0.0005
"""Seconds a feature to hand tokens up and to word them."""


@dataclass(frozen=True)
class Work:
    """The recipes of the two steps and their shards."""

    subject: Subject

    @property
    def projection_recipe(self) -> str:
        settings = self.subject.config.weightlens
        return short_hash(checkpoint=self.subject.checkpoint_id, weightlens=settings, version=VERSION)

    @property
    def recipe(self) -> str:
        """The recipe of the whole stage."""
        return short_hash(
            projection=self.projection_recipe, wording=self.subject.config.wording, version=WORDING_VERSION
        )

    def shards(self, recipe: str, layer: int) -> list[ShardKey]:
        return shards(recipe, layer, self.subject.attributes.d_transcoder, self.subject.config.shard_size)

    def all_shards(self, recipe: str) -> list[ShardKey]:
        return [key for layer in range(self.subject.attributes.n_layers) for key in self.shards(recipe, layer)]

    def n_missing(self, recipe: str, table: str) -> int:
        """Shards whose part of a table is not there yet."""
        return sum(not self.subject.store.part(table, key).exists() for key in self.all_shards(recipe))

    @property
    def compat(self) -> Compat | None:
        return self.subject.config.weightlens.compat

    @property
    def checkpoint(self) -> Checkpoint:
        return open_checkpoint(self.subject.store, self.subject.checkpoint_id)

    def encoder_ingredients(self, layer: int) -> dict[str, Any]:
        """What a layer's activations on given tokens follow from. Of the model, more than they read: all of it."""
        names = ("activation", "k", "bos", "feature_input_hook")
        return {
            "layer": layer,
            "model": self.subject.source.model_sha256,
            "arrays": self.checkpoint.sha256(layer, *ENCODER_ARRAYS),
            **{name: getattr(self.subject.attributes, name) for name in names},
        }

    def single_token_ingredients(self, layer: int) -> str:
        """What a layer's single-token activations follow from."""
        tokens = self.subject.attributes.n_tokens
        return short_hash(tokens=tokens, compat=self.compat, **self.encoder_ingredients(layer))

    @cached_property
    def projection_ingredients(self) -> list[str]:
        """By layer, what projections follow from: the layer's arrays, what it may read of earlier ones, the embeddings,
        and the single-token activations by which candidates are validated."""
        checkpoint, settings = self.checkpoint, self.subject.config.weightlens
        names = ("n_tokens", "d_transcoder", "norms_centred", "feature_input_hook", "feature_output_hook")
        shared = {
            "embeddings": checkpoint.sha256(None),
            "settings": settings,
            "version": VERSION,
            **{name: getattr(self.subject.attributes, name) for name in names},
        }
        return [
            short_hash(
                layer=layer,
                arrays=checkpoint.sha256(layer),
                upstream=[(at, checkpoint.sha256(at, *DECODER_ARRAYS)) for at in settings.upstream_layers(layer)],
                single_token=checkpoint.single_token_sha256(layer, settings.compat),
                **shared,
            )
            for layer in range(checkpoint.n_layers)
        ]

    @cached_property
    def ingredients(self) -> list[str]:
        """By layer, what inherited tokens and descriptions follow from: projections here and upstream, and the tokens'
        texts; the authors' way, also the model and the encoder."""
        settings, found = self.subject.config.weightlens, []
        for layer, projected in enumerate(self.projection_ingredients):
            found.append(
                short_hash(
                    projected=projected,
                    upstream=[found[at] for at in settings.upstream_layers(layer)],
                    tokenizer=self.subject.source.tokenizer_sha256,
                    wording=self.subject.config.wording,
                    sequences=None if self.compat is None else self.encoder_ingredients(layer),
                    version=WORDING_VERSION,
                )
            )
        return found

    @property
    def tables(self) -> tuple[str, ...]:
        """What propagating a shard leaves behind."""
        return PROPAGATED_TABLES if self.compat is None else (*PROPAGATED_TABLES, "sequence_validation")

    @property
    def blocks(self) -> range:
        return range(0, self.subject.attributes.n_tokens, TOKENS_PER_BLOCK)


def is_done(subject: Subject) -> bool:
    """Whether the catalog already holds what the configuration asks for."""
    return loaded_recipe(subject.store.catalog, subject.checkpoint_id, "weightlens") == Work(subject).recipe


def todo(subject: Subject) -> dict[str, int]:
    """Step by step, how many tasks are left."""
    store, checkpoint_id, work = subject.store, subject.checkpoint_id, Work(subject)
    layers = range(subject.attributes.n_layers)
    gathered = all(single_token_path(store, checkpoint_id, layer, work.compat).exists() for layer in layers)
    return {
        "single tokens": 0 if gathered else len(work.blocks),
        "project": work.n_missing(work.projection_recipe, PROJECTED_TABLES[-1]),
        "propagate": work.n_missing(work.recipe, PROPAGATED_TABLES[-1]),
    }


def costs(sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
    """What each step takes, by its name."""
    n_layers, d_model, n_tokens, d_transcoder = sizes.n_layers, sizes.d_model, sizes.n_tokens, sizes.d_transcoder
    upstream = sum(len(config.weightlens.upstream_layers(layer)) for layer in range(n_layers))
    n_features = n_layers * d_transcoder
    single = n_tokens * (sizes.block_flops + 2 * n_features * d_model)
    projections = 2 * d_model * d_transcoder * (2 * n_tokens * n_layers + upstream * d_transcoder)
    encoder = d_transcoder * d_model * 4
    inputs = TOKENS_PER_BLOCK * n_layers * d_model * 4
    columns = min(COLUMN_BLOCKS.max_bytes, 2 * n_tokens * d_model * 4 + n_features * d_model * 4)
    shard = config.shard_size * (3 * d_model * 4 + 2 * POOL_ROOM * min(config.weightlens.token_pool, n_tokens) * 8)
    n_shards = n_layers * -(-d_transcoder // config.shard_size)
    return {
        "single tokens": Cost(
            -(-n_tokens // TOKENS_PER_BLOCK),
            single / rates.products,
            n_layers * n_tokens * 64 * 8,
            sizes.model_bytes,
            encoder + inputs,
        ),
        "project": Cost(
            n_shards, projections / rates.projections, n_features * PARTS_BYTES_PER_FEATURE, columns, shard
        ),
        "propagate": Cost(n_shards, n_features * PROPAGATE_S, 0, 0, n_features * 200),
    }


def perform(subject: Subject, run_id: str) -> None:
    """Project, validate, propagate and word every feature, then load the catalog."""
    config, store, checkpoint_id = subject.config, subject.store, subject.checkpoint_id
    open_checkpoint(store, checkpoint_id)
    work = Work(subject)
    layers = range(subject.attributes.n_layers)
    with stage_recorded(config, store, "weightlens", run_id, work.recipe, checkpoint_id=checkpoint_id) as tally:
        _single_tokens(subject, work)
        projected = work.all_shards(work.projection_recipe)
        left = take_over_shards(store, projected, PROJECTED_TABLES, work.projection_ingredients, tally)
        products = arithmetic(config.engine)
        futures = [project_shard.submit(store, checkpoint_id, key, config.weightlens, products) for key in left]
        wait_for_all(futures, "weightlens: project")
        for layer in layers:  # a layer inherits from those below it
            left = take_over_shards(store, work.shards(work.recipe, layer), work.tables, work.ingredients, tally)
            futures = [_propagate(subject, work, key, key._replace(recipe=work.projection_recipe)) for key in left]
            wait_for_all(futures, f"weightlens: propagate L{layer:02d}")
        load_weightlens(store, checkpoint_id, run_id, projected, work.all_shards(work.recipe))


def _propagate(subject: Subject, work: Work, key: ShardKey, projected: ShardKey) -> PrefectFuture[ShardKey]:
    config, store, checkpoint_id = subject.config, subject.store, subject.checkpoint_id
    if work.compat is None:
        return propagate_shard.submit(store, checkpoint_id, key, projected, config.shard_size, config.wording)
    model_path = subject.source.model.path
    return describe_shard_as_authors.submit(
        store, checkpoint_id, model_path, key, projected, config.shard_size, config.wording
    )


def _single_tokens(subject: Subject, work: Work) -> None:
    store, checkpoint_id, model_path = subject.store, subject.checkpoint_id, subject.source.model.path
    n_tokens, layers, compat = subject.attributes.n_tokens, range(subject.attributes.n_layers), work.compat

    def places(checkpoint: str, layer: int) -> list[Path]:
        return [single_token_path(store, checkpoint, layer, compat)]

    left = [
        layer
        for layer in layers
        if not places(checkpoint_id, layer)[0].exists()
        and not take_over(store, work.single_token_ingredients(layer), checkpoint_id, partial(places, layer=layer))
    ]
    if left:
        device = arithmetic(subject.config.engine).device
        futures = [
            single_token_block.submit(
                store, checkpoint_id, model_path, start, min(start + TOKENS_PER_BLOCK, n_tokens), compat, device
            )
            for start in work.blocks
        ]
        wait_for_all(futures, "single tokens: run")
        starts = list(work.blocks)
        futures = [single_token_layer.submit(store, checkpoint_id, layer, starts, compat) for layer in left]
        wait_for_all(futures, "single tokens: gather")
    drop_single_token_blocks(store, checkpoint_id, work.blocks, compat)


@flow(name="weightlens", flow_run_name="weightlens {config.name}")
def weightlens(config: RunConfig) -> str:
    """Describe an ingested checkpoint from its weights; returns its id."""
    subject = identify(open_source(config))
    open_checkpoint(subject.store, subject.checkpoint_id)
    if not is_done(subject):
        with store_held(config, subject.store, f"weightlens {config.name}"):
            perform(subject, new_run_id())
    return subject.checkpoint_id
