"""Bring a model and its transcoders into the store, after measuring that they were read rightly."""

from collections.abc import Iterator
from typing import Any

from prefect import flow
from prefect.futures import PrefectFuture

from configs.run import RunConfig
from flows.running.engine import wait_for_all
from flows.running.stage import stage_recorded, store_held
from flows.subject.subject import Subject, identify, open_source
from interp.quality import Quality
from storage.catalog.database import loaded_recipe
from storage.catalog.runs import new_run_id
from storage.checkpoints import read_quality
from storage.recipes import remember_fingerprints, short_hash
from tasks.ingest import Text, ingest_embeddings, ingest_layer, load_checkpoint, measure_layer, measured


def is_done(subject: Subject) -> bool:
    """Whether the catalog already holds the checkpoint."""
    return loaded_recipe(subject.store.catalog, subject.checkpoint_id, "ingest") == subject.checkpoint_id


def perform(subject: Subject, run_id: str) -> None:
    """Measure every layer, refuse what was read wrongly, then write arrays and catalog.

    Raises:
        ValueError: a layer's figures say that the transcoders were read wrongly.
    """
    config, store, checkpoint_id = subject.config, subject.store, subject.checkpoint_id
    model_path, transcoder_path = subject.source.model.path, subject.transcoders.path
    layers, hooks = range(subject.attributes.n_layers), subject.transcoders.hooks
    corpus = subject.source.corpus
    text = quality_text(subject)
    with stage_recorded(config, store, "ingest", run_id, checkpoint_id, checkpoint_id=checkpoint_id):
        remember_fingerprints(store, subject.files)
        futures = [
            measure_layer.submit(store, checkpoint_id, layer, model_path, transcoder_path, hooks, text)
            for layer in layers
        ]
        wait_for_all(futures, "measure transcoders")
        _refuse_suspicious(subject, text)
        futures: list[PrefectFuture[Any]] = [ingest_embeddings.submit(store, checkpoint_id, model_path)]
        futures += [
            ingest_layer.submit(store, checkpoint_id, layer, model_path, transcoder_path, hooks) for layer in layers
        ]
        wait_for_all(futures, "ingest")
        corpus_id = corpus.corpus_id if store.corpus(corpus.corpus_id).exists() else None
        load_checkpoint(store, checkpoint_id, subject.attributes, text.recipe, corpus_id)


def measured_layers(subject: Subject) -> Iterator[Quality]:
    """Every layer's figures, measured without a store.

    Raises:
        ValueError: those of a layer say that it was read wrongly.
    """
    model, release, text = subject.source.model.path, subject.transcoders, quality_text(subject)
    for layer in range(subject.attributes.n_layers):
        quality, suspicion = measured(layer, model, release.path, release.hooks, text)
        if suspicion and not subject.config.transcoder.accept_poor_quality:
            raise ValueError(f"{release.path} does not fit {model} as read: layer {layer}: {suspicion}")
        yield quality


def quality_text(subject: Subject) -> Text:
    """The text on which a configuration has its transcoders measured."""
    corpus, n_tokens = subject.source.corpus, subject.config.quality_tokens
    recipe = short_hash(corpus=corpus.corpus_id, n_tokens=n_tokens)
    return Text(recipe, corpus.source, corpus.text_field, corpus.n_pos, n_tokens, corpus.bos, corpus.layout)


def _refuse_suspicious(subject: Subject, text: Text) -> None:
    layers = read_quality(subject.store, subject.checkpoint_id, text.recipe, subject.attributes.n_layers)
    found = [(layer["layer"], layer["suspicion"]) for layer in layers]
    suspicious = [f"  layer {layer}: {suspicion}" for layer, suspicion in found if suspicion]
    if suspicious and not subject.config.transcoder.accept_poor_quality:
        hooks = subject.transcoders.hooks
        raise ValueError(
            f"{subject.transcoders.path} does not fit {subject.source.model.path} as read "
            f"(input {hooks.feature_input}, output {hooks.feature_output}):\n"
            + "\n".join(suspicious)
            + "\nIf you know better, set transcoder.accept_poor_quality=true"
        )


@flow(name="ingest", flow_run_name="ingest {config.name}")
def ingest(config: RunConfig) -> str:
    """Ingest the checkpoint of a configuration; returns its id."""
    subject = identify(open_source(config))
    if not is_done(subject):
        with store_held(config, subject.store, f"ingest {config.name}"):
            perform(subject, new_run_id())
    return subject.checkpoint_id
