"""One pass over a corpus: blocks of rows through the model, then every shard's statistics and samples."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Int32

from interp.activations.encoding import Entries, find_active, gather_active, no_entries
from interp.activations.model_inputs import transcoder_inputs
from interp.activations.positions import counted_in_rows
from interp.activations.sampling import Samples, Statistics, draw_samples, statistics
from interp.activations.settings import ActivationSettings, Keep
from interp.capture import HookedModel
from interp.products import fast_products
from interp.projection import FLOAT32, Arithmetic
from interp.sparse import FeatureTokens
from interp.transfers import read_ahead
from storage.activations import Block, block_path, has_block, joined, open_block, pack_block, row_blocks, write_block
from storage.catalog.database import (
    CorpusRow,
    loaded_subject,
    mark_loaded,
    note_recipes,
    open_catalog,
    put_corpus,
    replace_rows,
)
from storage.catalog.parts import write_part
from storage.catalog.sequences import load_sequences
from storage.checkpoints import Checkpoint, open_checkpoint
from storage.corpora.corpus import corpus_attributes, read_rows
from storage.corpora.packing import PADDING
from storage.corpora.rows import CorpusRows
from storage.store import ShardKey, Store, remove_folder
from tasks.device_memory import TASKS_AT_ONCE, turn_on
from tasks.ingest import corpus_row
from tasks.loaded_models import loaded_encoder, loaded_model
from tasks.shard_task import shard_task

VERSION = 2
"""Raise it when the same model and text would give other sparse activations, statistics, samples or blocks."""

TABLES = ("features", "samples")
"""Tables for which gathering a shard writes parts, in this order."""

POSITIONS_PER_BLOCK = 1 << 16
"""Largest number of positions in one task: 65,536, so that a position within a block fits into uint16."""

LAYERS_TIMES_POSITIONS = 1 << 18
"""Largest product of layers and positions of a block: deep models get fewer positions, whose entries take 0.2 GB at 50
active features."""

POSITIONS_PER_STREAM = 4096
"""Positions whose streams are in memory at every layer at a time, on the CPU."""

POSITIONS_PER_BATCH = 2048
"""Positions in a forward pass on the CPU; with more it is not faster."""

STREAMS_A_PASS = 24
"""Number of arrays of the residual stream's size in a forward pass: those inside an MLP and attention."""

ENTRIES_AT_ONCE = 8_000_000
"""Activations in memory in a gathering task, which processes as many features at a time as this allows."""


class CorpusPass(NamedTuple):
    """One pass over one corpus by one checkpoint."""

    recipe: str
    """The recipe of the sparse activations."""
    corpus_id: str
    n_layers: int
    first_row: int = 0
    """Number of the corpus's first row if it is read after others."""

    @property
    def rows(self) -> CorpusRows:
        """The corpus with the number of its first row."""
        return CorpusRows(self.corpus_id, self.first_row)

    def blocks(self, store: Store) -> list[Block]:
        """The blocks of the corpus's rows, without held-out rows."""
        attributes = corpus_attributes(store, self.corpus_id)
        return row_blocks(attributes.n_sequences, attributes.n_pos, positions_per_block(self.n_layers))


def positions_per_block(n_layers: int) -> int:
    """Positions in a task, for a model with this many layers."""
    return min(POSITIONS_PER_BLOCK, LAYERS_TIMES_POSITIONS // n_layers)


@dataclass(frozen=True)
class PassJob:
    """The model, and the settings that decide which positions count."""

    checkpoint_id: str
    model_path: Path
    settings: ActivationSettings
    arithmetic: Arithmetic = FLOAT32


@shard_task("activations-block", "activations rows {block.start}-{block.stop}")
def activations_block(store: Store, job: PassJob, corpus_pass: CorpusPass, block: Block) -> Block:
    """Run a block of rows through the model and store every layer's active features.

    Memory: the streams of as many positions at every layer as `positions_at_once` says, the encoders that fit
    `ENCODERS` (at least one, on a GPU two), and the block's active entries, 10 bytes each and 14 more while they are
    sorted and written.
    """
    if has_block(store, corpus_pass.recipe, block):
        return block
    settings, arithmetic = job.settings, job.arithmetic
    checkpoint = open_checkpoint(store, job.checkpoint_id)
    folder, model = loaded_model(job.model_path, arithmetic.device, dtype=arithmetic.dtype)
    hooked = HookedModel(model, folder.family, checkpoint.hooks)
    rows = read_rows(store, corpus_pass.corpus_id, block.start, block.stop).tokens
    counted = counted_positions(store, corpus_pass.corpus_id, block, folder.tokenizer.all_special_ids, settings)
    with turn_on(arithmetic.device):
        found = _entries(checkpoint, hooked, rows, counted, arithmetic)
    active = []
    for layer in range(checkpoint.n_layers):
        active.append(gather_active(found[layer], checkpoint.d_transcoder))
        found[layer].clear()
    write_block(block_path(store, corpus_pass.recipe, block), active, int(counted.sum()))
    return block


def _entries(
    checkpoint: Checkpoint,
    hooked: HookedModel,
    rows: Int32[np.ndarray, "rows n_pos"],
    counted: Bool[np.ndarray, "rows n_pos"],
    arithmetic: Arithmetic,
) -> list[list[Entries]]:
    """The active features of a block of rows at the positions that count, by layer."""
    n_pos = rows.shape[1]
    dtype = np.uint16 if rows.size <= 1 << 16 else np.uint32
    layers = range(checkpoint.n_layers)
    found: list[list[Entries]] = [[] for _ in layers]
    d_model = checkpoint.attributes.d_model
    step, batch = (
        max(1, positions // n_pos) for positions in positions_at_once(arithmetic.device, len(layers), d_model)
    )
    encoder_of = partial(loaded_encoder, checkpoint, arithmetic=arithmetic)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        kept = counted[part]
        position = (start * n_pos + np.flatnonzero(kept)).astype(dtype)
        tokens = torch.from_numpy(np.where(rows[part] == PADDING, 0, rows[part])).to(arithmetic.device)
        mask = torch.from_numpy(kept).to(arithmetic.device)
        with fast_products(d_model):
            xs = transcoder_inputs(hooked, len(layers), tokens, mask, batch)
            encoders = read_ahead(checkpoint.layers, encoder_of, arithmetic.device)
            for layer, encoder in zip(checkpoint.layers, encoders, strict=True):
                found[layer].append(find_active(encoder, xs[layer], position))
            for layer in set(layers) - set(checkpoint.layers):
                found[layer].append(no_entries(dtype))
    return found


def positions_at_once(device: str, n_layers: int, d_model: int) -> tuple[int, int]:
    """Positions whose streams are held, and positions a forward pass: on a CUDA device an eighth of its free memory
    for each, as two tasks compute at the same time.

    No more than a block has. A pass that does not fit is repeated in halves.
    """
    if not device.startswith("cuda"):
        return POSITIONS_PER_STREAM, POSITIONS_PER_BATCH
    free, _ = torch.cuda.mem_get_info(device)
    stream = 4 * d_model
    held, passing = (free // (4 * TASKS_AT_ONCE) // (stream * n) for n in (n_layers, STREAMS_A_PASS))
    per_block = positions_per_block(n_layers)
    return min(held, per_block), min(held, passing, per_block)


def counted_positions(
    store: Store, corpus_id: str, block: Block, special: Sequence[int], settings: ActivationSettings
) -> Bool[np.ndarray, "rows n_pos"]:
    """Which positions of a block of a corpus's rows count."""
    before = read_rows(store, corpus_id, max(0, block.start - settings.skip_document_start), block.start).documents
    rows = read_rows(store, corpus_id, block.start, block.stop)
    return counted_in_rows(rows.tokens, rows.documents, before, special, settings)


@dataclass(frozen=True)
class SamplingJob:
    """The inputs and settings of statistics and samples."""

    checkpoint_id: str
    corpus_id: str
    """The corpus id in the tables; for several corpora, a hash of them all."""
    passes: tuple[CorpusPass, ...]
    settings: ActivationSettings

    @property
    def shared(self) -> dict[str, str]:
        """Columns with the same value in all rows of the tables."""
        return {"checkpoint_id": self.checkpoint_id, "corpus_id": self.corpus_id}


@shard_task("activations-gather", "activations {key.name}")
def gather_shard(store: Store, job: SamplingJob, key: ShardKey) -> ShardKey:
    """Gather a shard's activations from all blocks: their statistics, and the samples drawn from them.

    Memory: `ENTRIES_AT_ONCE` activations (or those of one feature, if it has more), 12 bytes each and 25 more for one
    feature while its samples are drawn; and the index at which each feature begins in every block.
    """
    if all(store.part(table, key).exists() for table in TABLES):
        return key
    passes = job.passes
    n_tokens = n_counted(store, passes)
    figures, drawn = [], []
    for first, active in active_of_shard(store, passes, key):
        figures.append(statistics(active))
        drawn.append((first, draw_samples(active, key.layer, first, job.settings)))
    n_pos = corpus_attributes(store, passes[0].corpus_id).n_pos
    shared = {**job.shared, "layer": key.layer}
    _write_samples(store.part("samples", key), shared, drawn, n_pos)
    _write_features(store.part("features", key), shared, key, figures, [samples for _, samples in drawn], n_tokens)
    return key


def n_counted(store: Store, passes: Sequence[CorpusPass]) -> int:
    """Number of positions that count, over all corpora."""
    return sum(open_block(store, r.recipe, block).n_counted for r in passes for block in r.blocks(store))


def active_of_shard(
    store: Store, passes: Sequence[CorpusPass], key: ShardKey, at_once: int = ENTRIES_AT_ONCE
) -> Iterator[tuple[int, FeatureTokens]]:
    """A shard's activations over all blocks, a few features at a time: (the first of them, their activations).

    Positions are counted through all corpora: row number times `n_pos`, plus the position in the row.
    """
    opened, firsts = [], []
    for corpus_pass in passes:
        n_pos = corpus_attributes(store, corpus_pass.corpus_id).n_pos
        for block in corpus_pass.blocks(store):
            opened.append(open_block(store, corpus_pass.recipe, block))
            firsts.append((corpus_pass.first_row + block.start) * n_pos)
    parts = [block.features(key.layer, key.start, key.stop) for block in opened]
    counts = np.sum([np.diff(part.indptr) for part in parts], axis=0)
    low = 0
    while low < len(counts):
        fit = int(np.searchsorted(np.cumsum(counts[low:]), at_once, side="right"))
        high = min(low + max(1, fit), len(counts))
        yield key.start + low, joined([part.features(low, high) for part in parts], firsts)
        low = high


def _write_samples(path: Path, shared: dict[str, str | int], drawn: list[tuple[int, Samples]], n_pos: int) -> None:
    columns = {
        "feature": np.concatenate([first + samples.feature for first, samples in drawn]),
        **{
            name: np.concatenate([getattr(samples, name) for _, samples in drawn])
            for name in ("sample", "position", "activation", "quantile_bin")
        },
    }
    sequence, position = np.divmod(columns["position"], n_pos)
    bins = pa.array(columns["quantile_bin"], pa.int16(), mask=columns["quantile_bin"] < 0)
    whole = {**shared, **columns, "sequence": sequence, "position": position, "quantile_bin": bins}
    write_part(path, "samples", whole, len(sequence))


def _write_features(
    path: Path,
    shared: dict[str, str | int],
    key: ShardKey,
    figures: list[Statistics],
    drawn: list[Samples],
    n_tokens: int,
) -> None:
    n_active, total, squares, greatest = (np.concatenate(column) for column in zip(*figures, strict=True))
    alive = n_active > 0
    n = np.maximum(n_active, 1)
    mean = total / n
    columns = {
        "feature": np.arange(key.start, key.stop),
        "n_active": n_active,
        "density": n_active / max(1, n_tokens),
        "mean_activation": pa.array(mean, mask=~alive),
        "std_activation": pa.array(np.sqrt(np.maximum(squares / n - mean**2, 0)), mask=~alive),
        "max_activation": pa.array(greatest, mask=~alive),
        "quantiles": [
            edges if is_alive else None
            for is_alive, edges in zip(alive, np.concatenate([samples.edges for samples in drawn]), strict=True)
        ],
        "is_dead": ~alive,
    }
    write_part(path, "features", {**shared, **columns}, key.stop - key.start)


def remove_or_pack_blocks(store: Store, passes: Sequence[CorpusPass], keep: Keep) -> None:
    """Remove sparse activations that no later stage reads, or pack them if they are to be kept."""
    for corpus_pass in passes:
        if keep == "none":
            remove_folder(store.activations(corpus_pass.recipe))
        else:
            for block in corpus_pass.blocks(store):
                pack_block(store, corpus_pass.recipe, block)


@shard_task("load-activations", "load activations")
def load_activations(store: Store, job: SamplingJob, keys: Sequence[ShardKey]) -> str:
    """Load all parts into the catalog in one transaction, replacing those of an earlier recipe."""
    recipe, loaded = keys[0].recipe, loaded_subject(job.checkpoint_id, job.corpus_id)
    with open_catalog(store.catalog, write=True) as connection:
        rows = [corpus_row(corpus_attributes(store, corpus_pass.corpus_id)) for corpus_pass in job.passes]
        for row in rows if len(rows) == 1 else [*rows, _union(job.corpus_id, rows)]:
            put_corpus(connection, row)
        for table in TABLES:
            replace_rows(connection, table, job.shared, [store.part(table, key) for key in keys])
        note_recipes(connection, "activations", job.shared, [corpus_pass.recipe for corpus_pass in job.passes])
        mark_loaded(connection, loaded, "activations", recipe)
        mark_loaded(connection, loaded, "circuitlens", "none")  # clusters were removed with the samples
    return recipe


@shard_task("load-texts", "load texts")
def load_texts(store: Store, job: SamplingJob, recipe: str, neighbours: Sequence[ShardKey], *, keep_text: bool) -> str:
    """Load the rows that samples are from, in one transaction; with `keep_text` false, remove them. `neighbours` are
    the shards of activations around samples, if they are stored."""
    corpora = [corpus_pass.rows for corpus_pass in job.passes]
    with open_catalog(store.catalog, write=True) as connection:
        load_sequences(connection, store, job.checkpoint_id, job.corpus_id, corpora, keep_text=keep_text)
        parts = [store.part("sample_neighbours", key) for key in neighbours]
        replace_rows(connection, "sample_neighbours", job.shared, parts)
        mark_loaded(connection, loaded_subject(job.checkpoint_id, job.corpus_id), "texts", recipe)
    return recipe


def _union(corpus_id: str, rows: Sequence[CorpusRow]) -> CorpusRow:
    """The row of `corpora` for several corpora that are read one after the other."""
    return CorpusRow(
        corpus_id=corpus_id,
        name=" + ".join(row.name for row in rows),
        n_sequences=sum(row.n_sequences for row in rows),
        n_pos=rows[0].n_pos,
        n_tokens=sum(row.n_tokens for row in rows),
        n_held_out_sequences=sum(row.n_held_out_sequences for row in rows),
        n_held_out_tokens=sum(row.n_held_out_tokens for row in rows),
        sha256=corpus_id,
        corpora=tuple(row.corpus_id for row in rows),
    )
