"""The demo's checkpoint and a corpus in a store, and what the obvious dense computation says of them."""

from pathlib import Path

import numpy as np
import torch

from configs.load import load_config
from flows.ingest import quality_text
from flows.inputs.checkpoint_plan import CheckpointPlan, identify, open_inputs
from interp.activations.settings import ActivationSettings
from interp.capture import HookedModel, capture
from storage.checkpoints import finish, open_checkpoint
from storage.corpora.corpus import corpus_attributes, read_rows
from storage.corpora.packing import PADDING
from tasks.activations.corpora import tokenise_corpus
from tasks.ingest import IngestJob, ingest_embeddings, ingest_layer
from tasks.loaded_models import loaded_model


def ingested(folder: Path, *overrides: str) -> CheckpointPlan:
    """The demo's checkpoint and a corpus in a store, without the pipeline."""
    config = load_config(Path("configs/demo.yaml"), [f"store={folder}", *overrides])
    plan = identify(open_inputs(config))
    store, model, release = plan.store, plan.inputs.model.path, plan.transcoders
    text, counted = quality_text(plan), config.activations
    job = IngestJob(plan.checkpoint_id, model, release.path, release.hooks, text, counted)
    ingest_embeddings.fn(store, job)
    for layer in plan.layers:
        ingest_layer.fn(store, job, layer)
    finish(store, plan.checkpoint_id, plan.attributes)
    tokenise_corpus.fn(store, plan.inputs.corpus, model)
    return plan


def dense(plan: CheckpointPlan, settings: ActivationSettings) -> list[np.ndarray]:
    """Every layer's activations at every position of the rows that are read; NaN at those that do not count."""
    store, checkpoint = plan.store, open_checkpoint(plan.store, plan.checkpoint_id)
    corpus_id = plan.inputs.corpus.corpus_id
    n = corpus_attributes(store, corpus_id).n_sequences
    tokens, documents = read_rows(store, corpus_id, 0, n)
    folder, model = loaded_model(plan.inputs.model.path)
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
