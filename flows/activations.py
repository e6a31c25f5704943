"""What every feature does on a corpus: one pass, then statistics and samples of every shard."""

from dataclasses import dataclass

from prefect import flow

from configs.run import RunConfig
from flows import weightlens
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.running.engine import arithmetic, n_workers, wait_for_all
from flows.running.stage import stage_recorded, store_held
from flows.subject.subject import Subject, identify, open_source
from interp.activations.encoding import encoder_bytes
from storage.activations import Block, has_block
from storage.catalog.database import has_text, loaded_recipe
from storage.catalog.runs import new_run_id
from storage.checkpoints import open_checkpoint
from storage.corpora.corpus import corpus_attributes
from storage.recipes import short_hash
from storage.shared_shards import ReuseCount, take_over_shards
from storage.store import ShardKey, shards
from tasks.activations.corpora import tokenise_corpus
from tasks.activations.corpus_pass import (
    ENTRIES_AT_ONCE,
    POSITIONS_PER_STREAM,
    TABLES,
    VERSION,
    CorpusPass,
    activations_block,
    gather_shard,
    load_activations,
    load_texts,
    positions_per_block,
    remove_or_pack_blocks,
)
from tasks.models import ENCODERS

ACTIVE_PER_TOKEN = 50
"""Active features a layer at a token, where nothing is known of them."""

BYTES_PER_ENTRY = 5.2

SAMPLE_BYTES = 25
"""A sample in a part and in the catalog."""

TOKENISED_PER_S = 300_000
"""Tokens a second into the store."""

LOADED_PER_S = 500_000
"""Tokens a second into the catalog, as text."""

TEXT_BYTES = 2.0
"""A token of text in the catalog."""

TEXTS_VERSION = 1
"""Bump when the same samples would be given other texts."""

DRAW_S, GATHER_S = 50e-6, 300e-9
"""Seconds a feature and an activation to gather them and to draw samples."""


@dataclass(frozen=True)
class Work:
    """The recipes of the pass over each corpus and of what is gathered from them, and their shards."""

    subject: Subject

    @property
    def corpus_id(self) -> str:
        """The corpus that statistics and samples are of; of several, a hash of them all."""
        names = [recipe.corpus_id for recipe in self.subject.source.corpora]
        return names[0] if len(names) == 1 else short_hash(corpora=names)

    @property
    def passes(self) -> list[CorpusPass]:
        """The passes, a corpus each. Rows are numbered through all corpora, those held out included."""
        config, store = self.subject.config, self.subject.store
        held_out, counted = config.corpus.held_out, config.activations.counted
        ingredients = {"checkpoint": self.subject.checkpoint_id, "held_out": held_out, "counted": counted}
        n_layers, found, first_row = self.subject.attributes.n_layers, [], 0
        for corpus in self.subject.source.corpora:
            recipe = short_hash(corpus=corpus.corpus_id, version=VERSION, **ingredients)
            found.append(CorpusPass(recipe, corpus.corpus_id, held_out, n_layers, first_row))
            if store.corpus(corpus.corpus_id).exists():
                first_row += corpus_attributes(store, corpus.corpus_id).n_sequences
        return found

    @property
    def recipe(self) -> str:
        """The recipe of the whole stage."""
        drawn = self.subject.config.activations.drawn
        return short_hash(passes=[corpus_pass.recipe for corpus_pass in self.passes], drawn=drawn, version=VERSION)

    @property
    def texts_recipe(self) -> str:
        """The recipe of the texts around the samples."""
        keep_text = self.subject.config.corpus.keep_text
        return short_hash(samples=self.recipe, keep_text=keep_text, version=TEXTS_VERSION)

    @property
    def ingredients(self) -> list[str]:
        """By layer, what statistics and samples follow from."""
        config, encoders = self.subject.config, weightlens.Work(self.subject)
        shared = {
            "corpora": [corpus.corpus_id for corpus in self.subject.source.corpora],
            "held_out": config.corpus.held_out,
            "counted": config.activations.counted,
            "drawn": config.activations.drawn,
            "version": VERSION,
        }
        layers = range(self.subject.attributes.n_layers)
        return [short_hash(**encoders.encoder_ingredients(layer), **shared) for layer in layers]

    @property
    def is_tokenised(self) -> bool:
        return all(self.subject.store.corpus(recipe.corpus_id).exists() for recipe in self.subject.source.corpora)

    def blocks(self, corpus_pass: CorpusPass) -> list[Block]:
        return corpus_pass.blocks(self.subject.store)

    def missing_blocks(self) -> list[tuple[CorpusPass, Block]]:
        """What the model has still to read."""
        store = self.subject.store
        every = [(corpus_pass, block) for corpus_pass in self.passes for block in self.blocks(corpus_pass)]
        return [(corpus_pass, block) for corpus_pass, block in every if not has_block(store, corpus_pass.recipe, block)]

    def all_shards(self) -> list[ShardKey]:
        sizes, shard_size = self.subject.attributes, self.subject.config.shard_size
        layers = range(sizes.n_layers)
        return [key for layer in layers for key in shards(self.recipe, layer, sizes.d_transcoder, shard_size)]

    def missing_shards(self) -> list[ShardKey]:
        store = self.subject.store
        return [key for key in self.all_shards() if not all(store.part(table, key).exists() for table in TABLES)]


def is_done(subject: Subject) -> bool:
    """Whether the catalog already holds what the configuration asks for."""
    work = Work(subject)
    return _has_samples(work) and _has_texts(work)


def _has_samples(work: Work) -> bool:
    if _loaded(work, "activations") != work.recipe:
        return False
    return work.subject.config.activations.keep == "none" or not work.missing_blocks()


def _has_texts(work: Work) -> bool:
    """Whether the texts are there, and no other checkpoint's configuration has changed that since."""
    subject = work.subject
    if _loaded(work, "texts") != work.texts_recipe:
        return False
    return has_text(subject.store.catalog, work.corpus_id) is subject.config.corpus.keep_text


def _loaded(work: Work, stage: str) -> str | None:
    subject = work.subject
    return loaded_recipe(subject.store.catalog, f"{subject.checkpoint_id} {work.corpus_id}", stage)


def todo(subject: Subject) -> dict[str, int | None]:
    """Step by step, how many tasks are left; None: all, which are counted once the corpus is tokenised."""
    work = Work(subject)
    n_shards = len(work.missing_shards())
    if not work.is_tokenised:
        return {"tokenise": 1, "activations": None, "samples": n_shards, "texts": 1}
    wanted = n_shards > 0 or subject.config.activations.keep == "all"
    n_blocks = len(work.missing_blocks()) if wanted else 0
    return {"tokenise": 0, "activations": n_blocks, "samples": n_shards, "texts": 0 if _has_texts(work) else 1}


def costs(sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
    """What each step takes, by its name."""
    workers, n_features = n_workers(config.engine), sizes.n_layers * sizes.d_transcoder
    tokens = sizes.corpus_tokens * (1 - config.corpus.held_out)
    encoders = 2 * n_features * sizes.d_model
    entries = ACTIVE_PER_TOKEN * sizes.n_layers
    blocks = entries * tokens * BYTES_PER_ENTRY
    samples = n_features * (config.activations.n_samples + config.activations.n_top) * SAMPLE_BYTES
    layer = encoder_bytes(sizes.d_transcoder, sizes.d_model, screened=arithmetic(config.engine).screen)
    held = max(layer, min(ENCODERS.max_bytes, sizes.n_layers * layer))
    stream = 2 * POSITIONS_PER_STREAM * sizes.n_layers * sizes.d_model * 4
    n_shards = sizes.n_layers * -(-sizes.d_transcoder // config.shard_size)
    per_block = positions_per_block(sizes.n_layers)
    return {
        "tokenise": Cost(1, sizes.corpus_tokens / TOKENISED_PER_S, 8 * sizes.corpus_tokens, 0, 150e6),
        "activations": Cost(
            max(1, round(tokens / per_block)),
            tokens * (sizes.model_flops + encoders) / rates.products,
            blocks,
            sizes.model_bytes + held,
            stream + 16 * entries * per_block,
        ),
        "samples": Cost(
            n_shards,
            (n_features * DRAW_S + entries * tokens * GATHER_S) / workers,
            samples,
            0,
            12 * ENTRIES_AT_ONCE,
        ),
        "texts": Cost(1, tokens / LOADED_PER_S, TEXT_BYTES * tokens, 0, 100e6),
    }


def perform(subject: Subject, run_id: str) -> None:
    """Tokenise the corpus if need be, run it through the model, gather every shard, load the catalog and the texts."""
    config, store, checkpoint_id = subject.config, subject.store, subject.checkpoint_id
    open_checkpoint(store, checkpoint_id)
    work = Work(subject)
    with stage_recorded(
        config, store, "activations", run_id, work.recipe, checkpoint_id=checkpoint_id, corpus_id=work.corpus_id
    ) as tally:
        if not _has_samples(work):
            _draw_samples(subject, work, tally)
        if not _has_texts(work):
            keep_text, recipe = config.corpus.keep_text, work.texts_recipe
            load_texts(store, checkpoint_id, work.corpus_id, work.passes, recipe, keep_text=keep_text)


def _draw_samples(subject: Subject, work: Work, tally: ReuseCount) -> None:
    """Everything up to the samples in the catalog."""
    config, store, checkpoint_id = subject.config, subject.store, subject.checkpoint_id
    tokenise(subject)
    missing = take_over_shards(store, work.all_shards(), TABLES, work.ingredients, tally)
    if missing or config.activations.keep == "all":
        run_blocks(subject, work)
    futures = [
        gather_shard.submit(store, checkpoint_id, work.corpus_id, key, work.passes, config.activations)
        for key in missing
    ]
    wait_for_all(futures, "activations: gather")
    if not read_later(subject):
        remove_or_pack_blocks(store, work.passes, config.activations.keep)
    load_activations(store, checkpoint_id, work.corpus_id, work.passes, work.all_shards())


def read_later(subject: Subject) -> bool:
    """Whether the run goes on with a stage that reads the sparse activations."""
    return "coactivation" in subject.config.stages


def tokenise(subject: Subject) -> None:
    """See to it that the corpora are in the store."""
    store, model_path = subject.store, subject.source.model.path
    missing = [corpus for corpus in subject.source.corpora if not store.corpus(corpus.corpus_id).exists()]
    wait_for_all([tokenise_corpus.submit(store, corpus, model_path) for corpus in missing], "tokenise")


def run_blocks(subject: Subject, work: Work) -> None:
    """Run through the model what is not in the store as sparse activations."""
    config, model_path = subject.config, subject.source.model.path
    products = arithmetic(config.engine)
    futures = [
        activations_block.submit(
            subject.store, subject.checkpoint_id, model_path, corpus_pass, block, config.activations, products
        )
        for corpus_pass, block in work.missing_blocks()
    ]
    wait_for_all(futures, "activations: run")


@flow(name="activations", flow_run_name="activations {config.name}")
def activations(config: RunConfig) -> str:
    """Run the corpus of a configuration through an ingested checkpoint; returns the corpus's id."""
    subject = identify(open_source(config))
    open_checkpoint(subject.store, subject.checkpoint_id)
    if not is_done(subject):
        with store_held(config, subject.store, f"activations {config.name}"):
            perform(subject, new_run_id())
    return Work(subject).corpus_id
