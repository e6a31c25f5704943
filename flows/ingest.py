"""The stage `ingest`: measure the transcoders, to be sure that they were read rightly, and write the checkpoint."""

from collections.abc import Iterator

from prefect import flow

from configs.run import RunConfig
from flows.costs.ingest import MEASURED_BYTES, ingest_costs
from flows.costs.plan import check_room_for
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.recipes.checkpoint import measured_text
from flows.running.before_start import check_before_start
from flows.running.engine import wait_for_all
from flows.running.stage import is_loaded, perform, store_held
from flows.subject.machine import threads_of_a_lone_task
from flows.subject.subject import Subject, identify, open_source
from interp.quality import Quality
from storage.catalog.runs import new_run_id
from storage.checkpoints import is_ingested, read_quality
from storage.recipes import remember_fingerprints
from storage.shared_shards import ReuseCount
from tasks.ingest import IngestJob, Text, ingest_embeddings, ingest_layer, load_checkpoint, measure_layers, measured


class IngestStage:
    """The checkpoint in the store and in the catalog; always the first stage."""

    name = "ingest"

    def recipe(self, subject: Subject) -> str:
        return subject.checkpoint_id

    def corpus_id(self, subject: Subject) -> None:
        return None

    def is_done(self, subject: Subject) -> bool:
        return is_loaded(self, subject) and is_ingested(subject.store, subject.checkpoint_id)

    def todo(self, subject: Subject) -> dict[str, int | None]:
        return {"ingest": 0 if self.is_done(subject) else len(subject.layers)}

    def costs(self, sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
        return ingest_costs(sizes, config, rates)

    def run(self, subject: Subject, run_id: str, reuse: ReuseCount) -> None:
        """Measure every layer, refuse transcoders that were read wrongly, then write the arrays.

        Raises:
            ValueError: the quality of a layer shows that the transcoders were read wrongly.
        """
        store, job = subject.store, quality_job(subject)
        remember_fingerprints(store, subject.files)
        groups = _measured_together(subject)
        wait_for_all([measure_layers.submit(store, job, layers) for layers in groups], "measure transcoders")
        _refuse_suspicious(subject, job.text)
        embeddings = ingest_embeddings.submit(store, job)
        wait_for_all([ingest_layer.submit(store, job, layer) for layer in subject.layers], "ingest")
        wait_for_all([embeddings], "ingest")

    def load(self, subject: Subject, run_id: str) -> None:
        store, corpus_id = subject.store, subject.source.corpus.corpus_id
        known = corpus_id if store.corpus(corpus_id).exists() else None
        load_checkpoint(store, subject.checkpoint_id, subject.attributes, quality_text(subject).recipe, known)


INGEST = IngestStage()


def quality_job(subject: Subject) -> IngestJob:
    """The inputs of the tasks: the checkpoint, and the text for measuring."""
    return IngestJob(
        checkpoint_id=subject.checkpoint_id,
        model_path=subject.source.model.path,
        transcoder_path=subject.transcoders.path,
        hooks=subject.transcoders.hooks,
        text=quality_text(subject),
        counted=subject.config.activations,
        n_threads=threads_of_a_lone_task(subject.config.engine),
        arithmetic=subject.arithmetic,
        only=None if subject.config.transcoder.only_layers is None else subject.layers,
    )


def measured_layers(subject: Subject) -> Iterator[Quality]:
    """The quality of every layer, measured without a store.

    Raises:
        ValueError: a layer's quality shows that it was read wrongly.
    """
    job = quality_job(subject)
    for layers in _measured_together(subject):
        for quality, suspicion in measured(job, layers):
            if suspicion and not subject.config.transcoder.accept_poor_quality:
                where = f"{job.transcoder_path} does not fit {job.model_path} with these hooks: layer {quality.layer}"
                raise ValueError(f"{where}: {suspicion}")
            yield quality


def _measured_together(subject: Subject) -> list[tuple[int, ...]]:
    """Layers in groups whose transcoders fit into the memory limit."""
    n_bytes = [subject.transcoders.float32_bytes(layer) for layer in subject.layers]
    groups: list[tuple[int, ...]] = []
    room = 0
    for layer, needed in zip(subject.layers, n_bytes, strict=True):
        if not groups or needed > room:
            groups.append(())
            room = MEASURED_BYTES
        groups[-1] = (*groups[-1], layer)
        room -= needed
    return groups


def quality_text(subject: Subject) -> Text:
    """The text on which a configuration's transcoders are measured."""
    corpus, n_tokens = subject.source.corpus, subject.config.quality_tokens
    recipe = measured_text(corpus.corpus_id, n_tokens, subject.config.activations)
    return Text(recipe, corpus, n_tokens)


def _refuse_suspicious(subject: Subject, text: Text) -> None:
    layers = read_quality(subject.store, subject.checkpoint_id, text.recipe, subject.layers)
    found = [(layer["layer"], layer["suspicion"]) for layer in layers]
    suspicious = [f"  layer {layer}: {suspicion}" for layer, suspicion in found if suspicion]
    if suspicious and not subject.config.transcoder.accept_poor_quality:
        hooks = subject.transcoders.hooks
        raise ValueError(
            f"{subject.transcoders.path} does not fit {subject.source.model.path} with these hooks "
            f"(input {hooks.feature_input}, output {hooks.feature_output}):\n"
            + "\n".join(suspicious)
            + "\nTo ingest them anyway, set transcoder.accept_poor_quality=true"
        )


@flow(name="ingest", flow_run_name="ingest {config.name}")
def ingest(config: RunConfig, force: bool = False) -> str:
    """Ingest the checkpoint of a configuration; returns its id."""
    subject = identify(open_source(config))
    if not INGEST.is_done(subject):
        check_before_start(config, subject, [])
        if not force:
            check_room_for(subject.source, subject, [INGEST])
        with store_held(config, subject.store, f"ingest {config.name}"):
            perform(INGEST, subject, new_run_id())
    return subject.checkpoint_id
