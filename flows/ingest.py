"""The stage `ingest`: measure the transcoders, to be sure that they were read rightly, and write the checkpoint."""

from collections.abc import Iterator

from prefect import flow

from configs.run import RunConfig
from flows.costs.ingest import MEASURED_BYTES, ingest_costs
from flows.costs.plan import check_room_for
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.inputs.checkpoint_plan import CheckpointPlan, identify, open_inputs
from flows.inputs.machine import threads_of_a_lone_task
from flows.recipes.checkpoint import measured_text
from flows.running.before_start import check_before_start
from flows.running.engine import wait_for_all
from flows.running.stage import StageOutput, is_loaded, perform, store_held
from interp.quality import Quality
from storage.catalog.runs import new_run_id
from storage.checkpoints import is_ingested, read_quality
from storage.hashing import remember_fingerprints
from storage.shared_shards import ReuseCount
from tasks.ingest import IngestJob, Text, ingest_embeddings, ingest_layer, load_checkpoint, measure_layers, measured


class IngestStage:
    """The checkpoint in the store and in the catalog; always the first stage."""

    name = "ingest"

    def output(self, plan: CheckpointPlan) -> StageOutput:
        return StageOutput(self.name, plan.checkpoint_id)

    def is_done(self, plan: CheckpointPlan) -> bool:
        return is_loaded(plan, self.output(plan)) and is_ingested(plan.store, plan.checkpoint_id)

    def todo(self, plan: CheckpointPlan) -> dict[str, int | None]:
        return {"ingest": 0 if self.is_done(plan) else len(plan.layers)}

    def costs(self, sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
        return ingest_costs(sizes, config, rates)

    def run(self, plan: CheckpointPlan, run_id: str, reuse: ReuseCount) -> None:
        """Measure every layer, refuse transcoders that were read wrongly, then write the arrays.

        Raises:
            ValueError: the quality of a layer shows that the transcoders were read wrongly.
        """
        store, job = plan.store, quality_job(plan)
        remember_fingerprints(store, plan.files)
        groups = _measured_together(plan)
        wait_for_all([measure_layers.submit(store, job, layers) for layers in groups], "measure transcoders")
        _refuse_suspicious(plan, job.text)
        embeddings = ingest_embeddings.submit(store, job)
        wait_for_all([ingest_layer.submit(store, job, layer) for layer in plan.layers], "ingest")
        wait_for_all([embeddings], "ingest")

    def load(self, plan: CheckpointPlan, run_id: str) -> None:
        store, corpus_id = plan.store, plan.inputs.corpus.corpus_id
        known = corpus_id if store.corpus(corpus_id).exists() else None
        load_checkpoint(store, plan.checkpoint_id, plan.attributes, quality_text(plan).recipe, known)


INGEST = IngestStage()


def quality_job(plan: CheckpointPlan) -> IngestJob:
    """The inputs of the tasks: the checkpoint, and the text for measuring."""
    return IngestJob(
        checkpoint_id=plan.checkpoint_id,
        model_path=plan.inputs.model.path,
        transcoder_path=plan.transcoders.path,
        hooks=plan.transcoders.hooks,
        text=quality_text(plan),
        counted=plan.config.activations,
        n_threads=threads_of_a_lone_task(plan.config.engine),
        arithmetic=plan.arithmetic,
        only=None if plan.config.transcoder.only_layers is None else plan.layers,
    )


def measured_layers(plan: CheckpointPlan) -> Iterator[Quality]:
    """The quality of every layer, measured without a store.

    Raises:
        ValueError: a layer's quality shows that it was read wrongly.
    """
    job = quality_job(plan)
    for layers in _measured_together(plan):
        for quality, suspicion in measured(job, layers):
            if suspicion and not plan.config.transcoder.accept_poor_quality:
                where = f"{job.transcoder_path} does not fit {job.model_path} with these hooks: layer {quality.layer}"
                raise ValueError(f"{where}: {suspicion}")
            yield quality


def _measured_together(plan: CheckpointPlan) -> list[tuple[int, ...]]:
    """Layers in groups whose transcoders fit into the memory limit."""
    n_bytes = [plan.transcoders.float32_bytes(layer) for layer in plan.layers]
    groups: list[tuple[int, ...]] = []
    room = 0
    for layer, needed in zip(plan.layers, n_bytes, strict=True):
        if not groups or needed > room:
            groups.append(())
            room = MEASURED_BYTES
        groups[-1] = (*groups[-1], layer)
        room -= needed
    return groups


def quality_text(plan: CheckpointPlan) -> Text:
    """The text on which a configuration's transcoders are measured."""
    corpus, n_tokens = plan.inputs.corpus, plan.config.quality_tokens
    recipe = measured_text(corpus.corpus_id, n_tokens, plan.config.activations)
    return Text(recipe, corpus, n_tokens)


def _refuse_suspicious(plan: CheckpointPlan, text: Text) -> None:
    layers = read_quality(plan.store, plan.checkpoint_id, text.recipe, plan.layers)
    found = [(layer["layer"], layer["suspicion"]) for layer in layers]
    suspicious = [f"  layer {layer}: {suspicion}" for layer, suspicion in found if suspicion]
    if suspicious and not plan.config.transcoder.accept_poor_quality:
        hooks = plan.transcoders.hooks
        raise ValueError(
            f"{plan.transcoders.path} does not fit {plan.inputs.model.path} with these hooks "
            f"(input {hooks.feature_input}, output {hooks.feature_output}):\n"
            + "\n".join(suspicious)
            + "\nTo ingest them anyway, set transcoder.accept_poor_quality=true"
        )


@flow(name="ingest", flow_run_name="ingest {config.name}")
def ingest(config: RunConfig, force: bool = False) -> str:
    """Ingest the checkpoint of a configuration; returns its id."""
    plan = identify(open_inputs(config))
    if not INGEST.is_done(plan):
        check_before_start(config, plan, [])
        if not force:
            check_room_for(plan.inputs, plan, [INGEST])
        with store_held(config, plan.store, f"ingest {config.name}"):
            perform(INGEST, plan, new_run_id())
    return plan.checkpoint_id
