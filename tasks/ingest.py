"""Add one checkpoint to the store: first its quality is measured, then it is written layer by layer."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from interp.activations.positions import counted_in_rows
from interp.activations.settings import ActivationSettings
from interp.capture import Hooks
from interp.families import Norm
from interp.products import fast_products
from interp.projection import FLOAT32, Arithmetic
from interp.quality import Quality, measure_quality
from storage.catalog.database import CorpusRow, insert_row, mark_loaded, open_catalog, put_corpus, replace_rows
from storage.catalog.parts import write_part
from storage.catalog.runs import now
from storage.catalog.tables import TABLES
from storage.checkpoints import (
    CheckpointAttributes,
    finish,
    quality_path,
    read_quality,
    write_embeddings,
    write_layer,
)
from storage.corpora.corpus import CorpusAttributes, CorpusRecipe, corpus_attributes
from storage.corpora.packing import max_rows, one_side, pack
from storage.corpora.texts import read_texts
from storage.formats import TranscoderFolder, open_transcoders
from storage.models import ModelFolder
from storage.store import Store, write_json
from storage.token_texts import token_texts
from tasks.activations.corpora import TOKENS_PER_BATCH, padded
from tasks.device_memory import turn_on
from tasks.loaded_models import loaded_model, threads
from tasks.shard_task import shard_task


@dataclass(frozen=True)
class Text:
    """A text for measuring quality: the first `n_tokens` tokens of a source."""

    recipe: str
    """Identifies the tokens."""
    corpus: CorpusRecipe
    n_tokens: int

    @property
    def source(self) -> str:
        """Where the text comes from: the source of its corpus."""
        return self.corpus.source

    def batches(self, folder: ModelFolder, counted: ActivationSettings) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches of rows as (tokens, which are real, which count)."""
        corpus, n_pos = self.corpus, self.corpus.n_pos
        step = max(1, TOKENS_PER_BATCH // n_pos)
        sides = one_side(corpus.bos, n_pos, corpus.layout, max_rows(self.n_tokens, n_pos))
        special = folder.tokenizer.all_special_ids
        before = np.zeros((0, n_pos), np.int32)
        for block in pack(
            read_texts(corpus.source, corpus.field), corpus.tokens(folder.tokenizer, folder.n_tokens), sides
        ):
            tokens, documents = block.rows
            counts = counted_in_rows(tokens, documents, before, special, counted)
            before = np.concatenate([before, documents])[-counted.skip_document_start or len(documents) :]
            for start in range(0, len(tokens), step):
                part = slice(start, start + step)
                yield (*padded(torch.from_numpy(tokens[part])), torch.from_numpy(counts[part]))


@dataclass(frozen=True)
class IngestJob:
    """The checkpoint to add, and the text on which its quality is measured first."""

    checkpoint_id: str
    model_path: Path
    transcoder_path: Path
    hooks: Hooks
    text: Text
    counted: ActivationSettings
    """Number of positions for explained variance and active features."""
    n_threads: int = 1
    arithmetic: Arithmetic = FLOAT32
    only: tuple[int, ...] | None = None
    """Only these layers of the release are read; None: all."""

    def transcoders(self, folder: ModelFolder) -> TranscoderFolder:
        """The release of transcoders, opened for this model."""
        return open_transcoders(self.transcoder_path, folder.family.model_type, *self.hooks, self.only)


@shard_task("measure-quality", "measure L{layers}")
def measure_layers(store: Store, job: IngestJob, layers: tuple[int, ...]) -> tuple[int, ...]:
    """Measure the quality of some layers' transcoders on a text and store it.

    Memory: the model, these transcoders, and the memory of `measure_quality`.
    """
    paths = [quality_path(store, job.checkpoint_id, job.text.recipe, layer) for layer in layers]
    if not all(path.exists() for path in paths):
        for path, (quality, suspicion) in zip(paths, measured(job, layers), strict=True):
            write_json(path, {**asdict(quality), "text": job.text.source, "suspicion": suspicion})
    return layers


def measured(job: IngestJob, layers: Sequence[int]) -> list[tuple[Quality, str | None]]:
    """The figures of some layers on a text, and why they say that a layer was read wrongly, if they do."""
    device, dtype = job.arithmetic.device, job.arithmetic.dtype
    folder, model = loaded_model(job.model_path, device, dtype=dtype)
    transcoders, text = job.transcoders(folder), job.text.batches(folder, job.counted)
    with turn_on(device), threads(job.n_threads) as pool, fast_products(folder.d_model):
        coders = {
            layer: {
                **{source: coder.to(torch.float32).on(device) for source, coder in transcoders.below(layer).items()},
                layer: transcoders.read(layer).to(torch.float32).on(device),
            }
            for layer in layers
        }
        found = measure_quality(model, folder.family, job.hooks, coders, text, pool)
        widths = {layer: coders[layer][layer].d_transcoder for layer in layers}
        del coders
    return [(quality, quality.suspicion(widths[quality.layer])) for quality in found]


@shard_task("ingest-embeddings", "ingest embeddings")
def ingest_embeddings(store: Store, job: IngestJob) -> str:
    """Write the embedding, the unembedding, the final norm and the vocabulary."""
    checkpoint_id = job.checkpoint_id
    folder, model = loaded_model(job.model_path)
    family = folder.family
    write_embeddings(store, checkpoint_id, family.W_E(model), family.W_U(model), family.unembedding_norm(model))
    path = tokens_part(store, checkpoint_id)
    if not path.exists():
        texts = token_texts(folder.tokenizer, folder.n_tokens)
        columns = {"checkpoint_id": checkpoint_id, "token_id": range(len(texts)), "text": texts}
        write_part(path, "tokens", columns, len(texts))
    return checkpoint_id


def tokens_part(store: Store, checkpoint_id: str) -> Path:
    """The file with the vocabulary's rows."""
    return store.parts("tokens", checkpoint_id) / "tokens.parquet"


@shard_task("ingest-layer", "ingest L{layer:02d}")
def ingest_layer(store: Store, job: IngestJob, layer: int) -> int:
    """Write one layer's transcoder, and the norms between it and the residual stream."""
    folder, model = loaded_model(job.model_path)
    transcoder = job.transcoders(folder).read(layer)
    read_norm: Norm | None = folder.family.read_norm(model, layer)
    write_norm = folder.family.write_norm(model, layer)
    if job.hooks.feature_input != "mlp_in" or not read_norm.divides:
        read_norm = None  # the norm's weight acts after the point where the transcoder reads, or there is none
    if job.hooks.feature_output != "mlp_out":
        write_norm = None  # the decoder already writes what is added to the residual stream
    write_layer(store, job.checkpoint_id, layer, transcoder, read_norm, write_norm)
    return layer


@shard_task("load-checkpoint", "load checkpoint")
def load_checkpoint(
    store: Store, checkpoint_id: str, attributes: CheckpointAttributes, text: str, corpus_id: str | None
) -> str:
    """Mark a checkpoint as ingested and load it, its vocabulary and its quality into the catalog."""
    attributes = replace(attributes, ingested_at=now().isoformat())
    finish(store, checkpoint_id, attributes)
    part = store.parts("transcoder_quality", checkpoint_id) / "quality.parquet"
    layers = read_quality(store, checkpoint_id, text, attributes.ingested_layers)
    names = [name for name in TABLES["transcoder_quality"].arrow.names if name != "checkpoint_id"]
    figures = [{name: layer[name] for name in names} for layer in layers]
    columns = {name: [layer[name] for layer in figures] for name in figures[0]}
    write_part(part, "transcoder_quality", {"checkpoint_id": checkpoint_id, **columns}, len(figures))
    with open_catalog(store.catalog, write=True) as connection:
        put = partial(replace_rows, connection, where={"checkpoint_id": checkpoint_id})
        put("tokens", parts=[tokens_part(store, checkpoint_id)])
        put("transcoder_quality", parts=[part])
        names = TABLES["checkpoints"].arrow.names
        row = {name: getattr(attributes, name) for name in names}
        insert_row(connection, "checkpoints", {**row, "layers": list(attributes.ingested_layers)})
        if corpus_id is not None:
            put_corpus(connection, corpus_row(corpus_attributes(store, corpus_id)))
        mark_loaded(connection, checkpoint_id, "ingest", checkpoint_id)
    return checkpoint_id


def corpus_row(attributes: CorpusAttributes) -> CorpusRow:
    """The row of `corpora` for a corpus with these attributes."""
    return CorpusRow(
        corpus_id=attributes.corpus_id,
        name=attributes.source,
        n_sequences=attributes.n_sequences,
        n_pos=attributes.n_pos,
        n_tokens=attributes.n_tokens,
        n_held_out_sequences=attributes.n_held_out_sequences,
        n_held_out_tokens=attributes.n_held_out_tokens,
        sha256=attributes.source_sha256,
    )
