"""The whole pipeline: train transcoders if needed, ingest, and every stage that the configuration names."""

from contextlib import suppress

from prefect import flow

from configs.run import RunConfig
from configs.stages import StageName
from flows.activations import ACTIVATIONS
from flows.circuitlens import CIRCUITLENS
from flows.coactivation import COACTIVATION
from flows.costs.plan import check_room_for
from flows.decoys import DecoyRun, judge_decoys
from flows.describe import DESCRIBE
from flows.evaluate import EVALUATE
from flows.ingest import INGEST
from flows.reports.prefect_pages import show_checkpoint, show_failure
from flows.running.before_start import check_before_start
from flows.running.stage import Stage, perform, store_held
from flows.subject.subject import Source, Subject, identify, open_source
from flows.train_transcoders import train
from flows.weightlens import WEIGHTLENS
from storage.catalog.runs import new_run_id
from storage.store import Store

STAGES: dict[StageName, Stage] = {
    "weightlens": WEIGHTLENS,
    "activations": ACTIVATIONS,
    "coactivation": COACTIVATION,
    "circuitlens": CIRCUITLENS,
    "describe": DESCRIBE,
    "evaluate": EVALUATE,
}
"""The stages after ingestion, in their order."""


def stages(config: RunConfig, subject: Subject | None = None) -> list[Stage]:
    """The stages that a configuration asks for, in order, without those that have nothing to do for a checkpoint;
    ingestion is always the first."""
    left_out = {} if subject is None else subject.left_out
    return [INGEST, *(stage for name, stage in STAGES.items() if name in config.stages and name not in left_out)]


def unfinished(config: RunConfig, subject: Subject | None) -> list[StageName]:
    """The stages that are left to do; all of them where the model or its transcoders are not here yet."""
    wanted = stages(config, subject)
    return [name for name, stage in STAGES.items() if stage in wanted and not (subject and stage.is_done(subject))]


def nothing_to_do(source: Source) -> str | None:
    """The checkpoint's id, if the catalog has everything that the configuration asks for."""
    if source.must_train:
        return None
    subject = identify(source)
    return subject.checkpoint_id if is_complete(subject) else None


def is_complete(subject: Subject) -> bool:
    """Whether the catalog holds everything that the configuration asks for."""
    return all(stage.is_done(subject) for stage in stages(subject.config, subject)) and not decoys_left(subject)


def decoys_left(subject: Subject) -> bool:
    """Whether the configuration asks for decoys that have not been judged."""
    run = DecoyRun(subject)
    return "evaluate" in subject.config.stages and not run.is_done(stages(run.config))


@flow(name="describe-checkpoint", flow_run_name="describe {config.name}")
def describe_checkpoint(config: RunConfig, force: bool = False) -> str:
    """Run every stage that is not finished; returns the checkpoint's id. With `force`, it starts even if the disk seems
    too small."""
    try:
        store, checkpoint_id = _describe(config, force)
    except Exception as error:
        with suppress(Exception):  # only the first error is reported
            show_failure(config.name, error)
        raise
    show_checkpoint(store, checkpoint_id, config.name)
    return checkpoint_id


def _describe(config: RunConfig, force: bool) -> tuple[Store, str]:
    source = open_source(config)
    subject = None if source.must_train else identify(source)
    check_before_start(config, subject, unfinished(config, subject))
    if not force:
        check_room_for(source, subject, stages(source.config, subject))
    run_id = new_run_id()
    with store_held(config, source.store, f"run {config.name}"):
        if subject is None:
            train(source, run_id)
            subject = identify(source)
        for stage in stages(config, subject):
            if not stage.is_done(subject):
                perform(stage, subject, run_id)
        if decoys_left(subject):
            judge_decoys(subject, stages(DecoyRun(subject).config), run_id)
    return source.store, subject.checkpoint_id


@flow(name="judge-decoys", flow_run_name="judge decoys of {config.name}")
def decoys(config: RunConfig, force: bool = False) -> str:
    """Run a checkpoint's decoys through the pipeline, if the configuration asks for some; returns the checkpoint's id.
    `force` has no effect, since decoys need little space."""
    subject = identify(open_source(config))
    if decoys_left(subject):
        with store_held(config, subject.store, f"decoys {config.name}"):
            judge_decoys(subject, stages(DecoyRun(subject).config), new_run_id())
    return subject.checkpoint_id
