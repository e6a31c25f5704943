"""The demo's checkpoint and a corpus in a store, and what the obvious dense computation says of them."""

from pathlib import Path

import numpy as np
import torch

from configs.load import load_config
from flows.ingest import quality_text
from flows.subject.subject import Subject, identify, open_source
from interp.activations.settings import ActivationSettings
from interp.capture import HookedModel, capture
from storage.checkpoints import finish, open_checkpoint
from storage.corpora.corpus import corpus_attributes, read_rows
from storage.corpora.packing import PADDING
from tasks.activations.corpora import tokenise_corpus
from tasks.ingest import IngestJob, ingest_embeddings, ingest_layer
from tasks.models import loaded_model


def ingested(folder: Path, *overrides: str) -> Subject:
    """The demo's checkpoint and a corpus in a store, without the pipeline."""
    config = load_config(Path("configs/demo.yaml"), [f"store={folder}", *overrides])
    subject = identify(open_source(config))
    store, model, release = subject.store, subject.source.model.path, subject.transcoders
    text, counted = quality_text(subject), config.activations
    job = IngestJob(subject.checkpoint_id, model, release.path, release.hooks, text, counted)
    ingest_embeddings.fn(store, job)
    for layer in subject.layers:
        ingest_layer.fn(store, job, layer)
    finish(store, subject.checkpoint_id, subject.attributes)
    tokenise_corpus.fn(store, subject.source.corpus, model)
    return subject


def dense(subject: Subject, settings: ActivationSettings) -> list[np.ndarray]:
    """Every layer's activations at every position of the rows that are read; NaN at those that do not count."""
    store, checkpoint = subject.store, open_checkpoint(subject.store, subject.checkpoint_id)
    corpus_id = subject.source.corpus.corpus_id
    n = corpus_attributes(store, corpus_id).n_sequences
    tokens, documents = read_rows(store, corpus_id, 0, n)
    folder, model = loaded_model(subject.source.model.path)
    real = torch.from_numpy(np.where(tokens == PADDING, 0, tokens))
    streams = capture(HookedModel(model, folder.family, checkpoint.hooks), real, range(checkpoint.n_layers))
    counted = tokens != PADDING
    if settings.special_tokens == "leave_out":
        counted &= ~np.isin(tokens, folder.tokenizer.all_special_ids)
    counted[:, : settings.skip_row_start] = False
    flat = documents.ravel()
    for at in range(len(flat)):
        before = flat[max(0, at - settings.skip_document_start) : at]
        if settings.skip_document_start and (len(before) < settings.skip_document_start or before[0] != flat[at]):
            counted[divmod(at, tokens.shape[1])] = False
    found = []
    for layer in range(checkpoint.n_layers):
        a = checkpoint.transcoder(layer).encode(streams[layer].x.flatten(0, 1)).numpy()
        found.append(np.where(counted.ravel()[:, None], a, np.nan))
    return found
