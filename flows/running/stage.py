"""The interface of a stage, and the common parts of all stages' flows: locking the store, recording the run."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import NamedTuple, Protocol
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from configs.run import RunConfig
from flows.costs.plan import Step, check_room_for
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes
from flows.inputs.checkpoint_plan import CheckpointPlan, identify, open_inputs
from flows.running.before_start import check_before_start
from flows.running.engine import engine_running
from flows.running.notify import notifying
from flows.running.progress import console, working
from storage.bucket.working_copy import hold, push_stage
from storage.catalog.database import check_catalog, loaded_recipe, loaded_subject
from storage.catalog.restore import restore
from storage.catalog.runs import mark_killed, new_run_id, recorded
from storage.checkpoints import open_checkpoint
from storage.checksums import DamagedError
from storage.shared_shards import ReuseCount
from storage.store import Store, check_place, open_store


class StageOutput(NamedTuple):
    """What the output of a stage is known by."""

    name: str
    """The value of `loaded.stage`: of descriptions and scores, the explainer and the judge are part of it."""
    recipe: str
    """See `flows.recipes`."""
    corpus_id: str | None = None
    """The corpus of its rows; None if they depend on weights only."""


class Stage(Protocol):
    """One stage of the pipeline: what a run, the plan and the stage's own flow need.

    Names of steps are the same in `todo` and `costs`.
    """

    @property
    def name(self) -> str:
        """The name in the command line and in the table `runs`."""
        ...

    def output(self, plan: CheckpointPlan) -> StageOutput:
        """What its output is known by."""
        ...

    def is_done(self, plan: CheckpointPlan) -> bool:
        """Whether the catalog already has what the configuration asks for."""
        ...

    def todo(self, plan: CheckpointPlan) -> dict[str, int | None]:
        """For each step, the number of tasks left; None: all, if they cannot be counted yet."""
        ...

    def costs(self, sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
        """The cost of each step from its beginning."""
        ...

    def run(self, plan: CheckpointPlan, run_id: str, reuse: ReuseCount) -> None:
        """Write every file that does not exist yet; files copied from other checkpoints are counted in `reuse`."""
        ...

    def load(self, plan: CheckpointPlan, run_id: str) -> None:
        """Load the files into the catalog."""
        ...


class StageRun(NamedTuple):
    """A stage of a run, for the table `runs`."""

    run_id: str
    stage: str
    recipe: str
    checkpoint_id: str | None = None
    corpus_id: str | None = None


def is_loaded(plan: CheckpointPlan, output: StageOutput) -> bool:
    """Whether the catalog has loaded this output of the checkpoint."""
    loaded = loaded_subject(plan.checkpoint_id, output.corpus_id)
    return loaded_recipe(plan.store.catalog, loaded, output.name) == output.recipe


def perform(stage: Stage, plan: CheckpointPlan, run_id: str) -> None:
    """Do the unfinished part of a stage, and record it. The caller must hold the store's lock."""
    output = stage.output(plan)
    run = StageRun(run_id, stage.name, output.recipe, plan.checkpoint_id, output.corpus_id)
    with stage_recorded(plan.config, plan.store, run) as reuse:
        stage.run(plan, run_id, reuse)
        stage.load(plan, run_id)


def perform_alone(stage: Stage, config: RunConfig, force: bool) -> CheckpointPlan:
    """The flow of a single stage; returns the checkpoint. With `force`, it starts even if the disk seems too small.

    Raises:
        ValueError: the checkpoint is not ingested, what the stage reads is not there, what it needs does not answer,
            there is no room for what it writes, or it has nothing to do for such a checkpoint.
    """
    plan = identify(open_inputs(config))
    for name, reason in plan.left_out.items():
        if name == stage.name:
            raise ValueError(f"{name}: nothing to do for this checkpoint: {reason}")
    open_checkpoint(plan.store, plan.checkpoint_id)
    if not stage.is_done(plan):
        check_before_start(config, plan, [stage.name])
        if not force:
            check_room_for(plan.inputs, plan, [stage])
        with store_held(config, plan.store, f"{stage.name} {config.name}"):
            perform(stage, plan, new_run_id())
    return plan


@contextmanager
def store_held(config: RunConfig, store: Store, purpose: str) -> Iterator[None]:
    """Lock the store for writing, with the engine that the configuration asks for.

    Raises:
        ValueError: the store cannot be written, another run has locked it, a newer version wrote its catalog, or there
            is no such engine.
    """
    check_place(store.root)
    with suppress(DamagedError):  # it is restored below
        check_catalog(store.catalog)
    open_store(store.root)
    names = [config.name, config.model.repo or str(config.model.path and config.model.path.name)]
    notify = partial(console.print, markup=False, soft_wrap=True)
    with hold(store, purpose, notify=notify), engine_running(config.engine):
        _tag_run(names)
        mend_catalog(store)
        mark_killed(store.catalog)
        yield


def mend_catalog(store: Store) -> None:
    """Restore a damaged catalog, and say so. The caller must hold the store's lock."""
    done = restore(store.catalog)
    if done is not None:
        console.print(done, markup=False, soft_wrap=True)


def _tag_run(names: list[str]) -> None:
    """Tag Prefect's flow run by checkpoint and model, which are not known when it is created.

    Its tasks are not tagged. For a tagged task, Prefect asks the server for limits on the tag, and if the server's
    SQLite is busy at that moment, it asks again after two seconds, which happened to every other long task.
    """
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(flow_run.id), tags={*flow_run.tags, *names})


class Planned(NamedTuple):
    """A plan's numbers for a stage."""

    predicted_s: float
    uncorrected_s: float


PLANNED: ContextVar[Mapping[str, Planned] | None] = ContextVar("planned", default=None)
"""The plan that was shown to the user of this run, by stage."""


def planned_stages(steps: Iterable[Step]) -> dict[str, Planned]:
    """For each stage, the sum over the steps of a plan."""
    sums: dict[str, Planned] = {}
    for step in steps:
        before = sums.get(step.stage, Planned(0.0, 0.0))
        sums[step.stage] = Planned(before.predicted_s + step.seconds, before.uncorrected_s + step.uncorrected_s)
    return sums


@contextmanager
def stage_recorded(config: RunConfig, store: Store, run: StageRun) -> Iterator[ReuseCount]:
    """Record a stage in the catalog's `runs`. Yields the count of its shards, which the stage updates."""
    expected = (PLANNED.get() or {}).get(run.stage)
    row = {
        **run._asdict(),
        "flow_run_id": flow_run.id,
        "finished_at": None,
        "error": None,
        "config": config.model_dump_json(),
        **(expected._asdict() if expected else {}),
    }
    with working(run.stage), notifying(config, run._asdict()):
        with recorded(store.catalog, row) as reuse:
            yield reuse
        push_stage()
