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
from flows.inputs.checkpoint_plan import CheckpointPlan, Inputs, identify, open_inputs
from flows.reports.prefect_pages import show_checkpoint, show_failure
from flows.running.before_start import check_before_start
from flows.running.stage import Stage, perform, store_held
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


def stages(config: RunConfig, plan: CheckpointPlan | None = None) -> list[Stage]:
    """The stages that a configuration asks for, in order, without those that have nothing to do for a checkpoint;
    ingestion is always the first."""
    left_out = {} if plan is None else plan.left_out
    return [INGEST, *(stage for name, stage in STAGES.items() if name in config.stages and name not in left_out)]


def unfinished(config: RunConfig, plan: CheckpointPlan | None) -> list[StageName]:
    """The stages that are left to do; all of them where the model or its transcoders are not here yet."""
    wanted = stages(config, plan)
    return [name for name, stage in STAGES.items() if stage in wanted and not (plan and stage.is_done(plan))]


def nothing_to_do(inputs: Inputs) -> str | None:
    """The checkpoint's id, if the catalog has everything that the configuration asks for."""
    if inputs.must_train:
        return None
    plan = identify(inputs)
    return plan.checkpoint_id if is_complete(plan) else None


def is_complete(plan: CheckpointPlan) -> bool:
    """Whether the catalog holds everything that the configuration asks for."""
    return all(stage.is_done(plan) for stage in stages(plan.config, plan)) and not decoys_left(plan)


def decoys_left(plan: CheckpointPlan) -> bool:
    """Whether the configuration asks for decoys that have not been judged."""
    run = DecoyRun(plan)
    return "evaluate" in plan.config.stages and not run.is_done(stages(run.config))


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
    inputs = open_inputs(config)
    plan = None if inputs.must_train else identify(inputs)
    check_before_start(config, plan, unfinished(config, plan))
    if not force:
        check_room_for(inputs, plan, stages(inputs.config, plan))
    run_id = new_run_id()
    with store_held(config, inputs.store, f"run {config.name}"):
        if plan is None:
            train(inputs, run_id)
            plan = identify(inputs)
        for stage in stages(config, plan):
            if not stage.is_done(plan):
                perform(stage, plan, run_id)
        if decoys_left(plan):
            judge_decoys(plan, stages(DecoyRun(plan).config), run_id)
    return inputs.store, plan.checkpoint_id


@flow(name="judge-decoys", flow_run_name="judge decoys of {config.name}")
def decoys(config: RunConfig, force: bool = False) -> str:
    """Run a checkpoint's decoys through the pipeline, if the configuration asks for some; returns the checkpoint's id.
    `force` has no effect, since decoys need little space."""
    plan = identify(open_inputs(config))
    if decoys_left(plan):
        with store_held(config, plan.store, f"decoys {config.name}"):
            judge_decoys(plan, stages(DecoyRun(plan).config), new_run_id())
    return plan.checkpoint_id
