"""What became of every feature between two checkpoints."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from prefect import flow

from configs.run import RunConfig
from flows.activations import Work
from flows.reports.card import chosen_checkpoint
from flows.reports.drift import write_report
from flows.running.engine import arithmetic, wait_for_all
from flows.running.stage import stage_recorded, store_held
from flows.subject.subject import Subject, identify, open_source
from interp.drift import DriftSettings
from storage.activations import Block, has_block
from storage.bucket.mirror import local_root
from storage.bucket.working_copy import refresh
from storage.catalog.database import loaded_recipe
from storage.catalog.published import open_published
from storage.catalog.runs import new_run_id
from storage.checkpoints import Checkpoint, open_checkpoint
from storage.recipes import short_hash
from storage.store import ShardKey, Store
from tasks.activations.corpora import tokenise_corpus
from tasks.activations.corpus_pass import CorpusPass, activations_block, remove_or_pack_blocks
from tasks.evaluation.drift import STAGE, VERSION, load_drift, match_layer


@dataclass(frozen=True)
class Pair:
    """Two checkpoints of a store, the earlier first, and how they are compared."""

    store: Store
    a: Checkpoint
    b: Checkpoint
    config: RunConfig
    """With which the later was ingested."""
    subjects: tuple[Subject, Subject] | None
    """Both as read on the later one's corpus; None: weights alone are compared."""
    settings: DriftSettings

    @property
    def ids(self) -> tuple[str, str]:
        return self.a.checkpoint_id, self.b.checkpoint_id

    @cached_property
    def passes(self) -> tuple[CorpusPass, CorpusPass] | None:
        if self.subjects is None:
            return None
        a, b = (Work(subject).passes[0] for subject in self.subjects)
        return a, b

    @property
    def recipe(self) -> str:
        passes = None if self.passes is None else [corpus_pass.recipe for corpus_pass in self.passes]
        return short_hash(a=self.ids[0], b=self.ids[1], settings=self.settings, passes=passes, version=VERSION)

    @property
    def keys(self) -> list[ShardKey]:
        """A shard a layer: a feature's like may be anywhere in it."""
        return [ShardKey(self.recipe, layer, 0, self.b.d_transcoder) for layer in range(self.b.n_layers)]


def open_pair(store: Store, a: str, b: str, settings: DriftSettings) -> Pair:
    """Two checkpoints by id or name, if they can be compared.

    Raises:
        ValueError: one is not there, or they are not of the same shape, hooks or tokenizer.
    """
    refresh(store)
    with open_published(store.catalog) as connection:
        ids = [chosen_checkpoint(connection, wanted)[0] for wanted in (a, b)]
        query = """SELECT config FROM runs WHERE checkpoint_id = ? AND stage = 'ingest' AND status = 'completed'
                   ORDER BY finished_at DESC LIMIT 1"""
        found = [connection.execute(query, [checkpoint_id]).fetchone() for checkpoint_id in ids]
    if ids[0] == ids[1]:
        raise ValueError(f"{a} and {b} are the same checkpoint, {ids[0]}")
    if None in found:
        raise ValueError(f"checkpoint {ids[found.index(None)]} was imported: there are no weights to compare")
    refresh(store, *(f"checkpoints/{checkpoint_id}" for checkpoint_id in ids))
    first, second = (open_checkpoint(store, checkpoint_id) for checkpoint_id in ids)
    for what, value, other in (
        ("layers", first.n_layers, second.n_layers),
        ("width", first.attributes.d_model, second.attributes.d_model),
        ("hooks", first.hooks, second.hooks),
    ):
        if value != other:
            raise ValueError(f"{a} and {b} cannot be compared: their {what} are {value} and {other}")
    changes = {"store": store.root}
    configs = [RunConfig.model_validate_json(row[0]).model_copy(update=changes) for row in found if row is not None]
    subjects = _on_the_same_text(*configs) if settings.n_positions else None
    for checkpoint_id, subject in zip(ids, subjects or (), strict=False):
        if subject.checkpoint_id != checkpoint_id:
            raise ValueError(
                f"checkpoint {checkpoint_id} was read from {subject.source.model.path} and {subject.transcoders.path}, "
                "where other files are now; compare weights alone, with --positions 0"
            )
    return Pair(store, first, second, configs[1], subjects, settings)


def _on_the_same_text(a: RunConfig, b: RunConfig) -> tuple[Subject, Subject]:
    shared = {"corpus": b.corpus, "activations": b.activations}
    first, second = (identify(open_source(config.model_copy(update=shared))) for config in (a, b))
    if first.source.corpus.corpus_id != second.source.corpus.corpus_id:
        raise ValueError(
            f"{a.name} and {b.name} have different tokenizers, so their activations cannot be compared token by token; "
            "compare weights alone, with --positions 0"
        )
    return first, second


def is_done(pair: Pair) -> bool:
    """Whether the catalog already holds the comparison."""
    return loaded_recipe(pair.store.catalog, " ".join(pair.ids), STAGE) == pair.recipe


def perform(pair: Pair, run_id: str) -> None:
    """Read the corpus's beginning with both checkpoints, match every layer, load the catalog, write the report."""
    store, config = pair.store, pair.config
    with stage_recorded(config, store, STAGE, run_id, pair.recipe, checkpoint_id=pair.ids[1]):
        blocks = _read(pair)
        futures = [match_layer.submit(store, pair.ids, key, pair.settings, pair.passes, blocks) for key in pair.keys]
        wait_for_all(futures, "compare checkpoints")
        if pair.passes is not None and config.activations.keep == "none":
            remove_or_pack_blocks(store, pair.passes, "none")
        load_drift(store, pair.ids, pair.keys)


def _read(pair: Pair) -> list[Block]:
    """The blocks of the corpus's beginning, read by both checkpoints where they are not yet."""
    if pair.subjects is None or pair.passes is None:
        return []
    store, corpus = pair.store, pair.subjects[1].source.corpus
    if not store.corpus(corpus.corpus_id).exists():
        wait_for_all([tokenise_corpus.submit(store, corpus, pair.subjects[1].source.model.path)], "tokenise")
    blocks, n_positions = [], 0
    for block in pair.passes[1].blocks(store):
        if n_positions >= pair.settings.n_positions:
            break
        blocks.append(block)
        n_positions += (block.stop - block.start) * corpus.n_pos
    settings, products = pair.config.activations, arithmetic(pair.config.engine)
    for subject, corpus_pass in zip(pair.subjects, pair.passes, strict=True):
        missing = [block for block in blocks if not has_block(store, corpus_pass.recipe, block)]
        futures = [
            activations_block.submit(
                store, subject.checkpoint_id, subject.source.model.path, corpus_pass, block, settings, products
            )
            for block in missing
        ]
        wait_for_all(futures, f"activations of {subject.config.name}")
    return blocks


@flow(name="compare-checkpoints", flow_run_name="compare {a} {b}")
def compare_checkpoints(store: str | Path, a: str, b: str, settings: DriftSettings | None = None) -> str:
    """Compare two checkpoints of a store, by id or name, the earlier first; returns the report's path."""
    pair = open_pair(Store(local_root(store)), a, b, settings or DriftSettings())
    if not is_done(pair):
        with store_held(pair.config, pair.store, f"compare-checkpoints {a} {b}"):
            perform(pair, new_run_id())
    return str(write_report(pair.store, *pair.ids))
