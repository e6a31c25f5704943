"""The plan of a run: its steps, with estimates of time, disk and memory."""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from configs.run import RunConfig
from flows.costs.coactivation import refuse_what_does_not_fit
from flows.costs.machines import on_machine, rates_of
from flows.costs.rates import Cost, Rates
from flows.costs.recorded import recorded_sizes
from flows.costs.sizes import Sizes, sizes_of, sizes_on_hub, sizes_to_train
from flows.costs.training import training_costs
from flows.inputs.checkpoint_plan import CheckpointPlan, Inputs, identify, open_inputs, store_path
from flows.inputs.origin import pinned, to_download
from storage.bucket.working_copy import refresh_all
from storage.catalog.runs import corrections
from storage.hub import RemoteFile, UnreachableError

DOWNLOAD_BYTES_PER_S = 50e6
"""A guess of a transcoder's number of active features, which is known only after a download."""

STARTUP_S = 14.0
"""Seconds outside the stages: libraries, Prefect's server, the summary at the end."""

SMALLEST_CATALOG_BYTES = 2 * 3.7e6
"""Bytes of the catalog of a dozen features with its published copy, since DuckDB writes whole blocks."""

DOWNLOAD, TRAINING = "download", "train-transcoders"


Measure = Callable[[int, RunConfig], Rates]
"""Gives the rates for a model of some width."""


class Plannable(Protocol):
    """The parts of a stage that the plan needs; see `flows.running.stage.Stage`."""

    @property
    def name(self) -> str:
        """The stage's name."""
        ...

    def todo(self, plan: CheckpointPlan) -> dict[str, int | None]: ...

    def costs(self, sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]: ...


class Step(NamedTuple):
    """A line of the plan."""

    stage: str
    """The stage's name in the table `runs`."""
    name: str
    todo: int
    total: int
    seconds: float
    """Factor by which earlier runs of the store on this machine correct the arithmetic."""
    uncorrected_s: float
    disk_bytes: float
    memory_bytes: float
    usd: float = 0.0


class CostPlan(NamedTuple):
    """The steps that are left to do, and the checkpoint."""

    checkpoint_plan: CheckpointPlan | None
    """None if the model or its transcoders are not on this machine."""
    sizes: Sizes
    """The sizes of the model and its transcoders."""
    steps: list[Step]
    from_records: bool = False
    """Whether the Hub could not be reached, so that sizes recorded for a preset are used."""


def planned(config: RunConfig, stages: Sequence[Plannable], machine: str | None = None) -> CostPlan:
    """The plan: the steps that are left to do in the stages of a run, beginning with ingestion, and the checkpoint that
    it is for.

    Nothing is written to the store, and only small files are downloaded from the Hub. If the Hub cannot be reached,
    presets are planned from recorded sizes. Times are computed from the operations of each step and this machine's
    current speed, and corrected by the times of earlier runs of the store on this machine. `machine` names another
    machine to plan for.

    Raises:
        ValueError: the missing co-activation matrices do not fit on the disk, or no machine of that name is known.
    """
    measured: Measure = Rates.measured
    if machine is not None:
        config, measured = on_machine(config, machine), partial(rates_of, machine)
    try:
        found = _planned(pinned(config), stages, measured)
    except UnreachableError:
        sizes = recorded_sizes(config)
        if sizes is None:
            raise
        found = _from_records(sizes, config, stages, measured)
    for step in found.steps:
        if step.name == "coactivation":
            refuse_what_does_not_fit(config, step.disk_bytes)
    return found


def check_room(config: RunConfig, steps: Sequence[Step]) -> None:
    """Compare the size of what the steps will write with the free disk space.

    Raises:
        ValueError: there is not enough space; the message has both numbers.
    """
    needed = sum(step.disk_bytes for step in steps if step.name != DOWNLOAD)
    place = store_path(config).resolve()
    if not (place / "catalog.duckdb").exists():
        needed += SMALLEST_CATALOG_BYTES
    existing = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise ValueError(
            f"store: the run will write about {needed / 1e6:,.1f} MB, and {existing} has {free / 1e6:,.1f} MB free; "
            "make room, choose another place (--store), or start anyway (--force; for a deployment, the parameter "
            "force): when the disk is full, finished work is kept"
        )


def check_room_for(inputs: Inputs, checkpoint_plan: CheckpointPlan | None, stages: Sequence[Plannable]) -> None:
    """Check the disk space for the rest of some stages; `checkpoint_plan` is None if transcoders must be
    trained first. The speed of the machine is not measured, which takes a second or two.

    Raises:
        ValueError: there is less space than the stages will write.
    """
    left = (
        _left_to_train(inputs, stages, _any_rates)
        if checkpoint_plan is None
        else _left(checkpoint_plan, stages, _any_rates)
    )
    check_room(inputs.config, left.steps)


def _any_rates(_: int, __: RunConfig) -> Rates:
    """Rates for sizes only, which do not depend on speed."""
    return Rates(1.0, 1.0)


def _planned(config: RunConfig, stages: Sequence[Plannable], measured: Measure) -> CostPlan:
    left = to_download(config)
    if left:
        sizes = sizes_on_hub(config)
        rates = measured(sizes.d_model, config)
        training = {} if config.transcoder.train is None else _train(sizes, config, rates)
        costs = {(DOWNLOAD, DOWNLOAD): _download(left), **training, **_costs(stages, sizes, config, rates)}
        return CostPlan(None, sizes, _all_to_do(costs, config))
    inputs = open_inputs(config)
    if inputs.must_train:
        return _left_to_train(inputs, stages, measured)
    return _left(identify(inputs), stages, measured)


def _left_to_train(inputs: Inputs, stages: Sequence[Plannable], measured: Measure) -> CostPlan:
    """The plan of a whole run whose transcoders have to be trained."""
    config, sizes = inputs.config, sizes_to_train(inputs)
    rates = measured(sizes.d_model, config)
    steps = _all_to_do({**_train(sizes, config, rates), **_costs(stages, sizes, config, rates)}, config)
    return CostPlan(None, sizes, steps)


def _left(checkpoint_plan: CheckpointPlan, stages: Sequence[Plannable], measured: Measure) -> CostPlan:
    """The plan of the rest of the stages for a checkpoint on this machine."""
    config, store = checkpoint_plan.config, checkpoint_plan.store
    stages = [stage for stage in stages if stage.name not in checkpoint_plan.left_out]
    refresh_all(store)
    sizes = sizes_of(checkpoint_plan)
    rates = measured(sizes.d_model, config)
    todo = {(stage.name, name): n_tasks for stage in stages for name, n_tasks in stage.todo(checkpoint_plan).items()}
    by_stage = corrections(store.catalog) if measured == Rates.measured else {}  # they are of this machine
    costs = _costs(stages, sizes, config, rates)
    steps = [_step(name, todo[name], cost, config, by_stage.get(name[0], 1.0)) for name, cost in costs.items()]
    return CostPlan(checkpoint_plan, sizes, steps)


def _from_records(sizes: Sizes, config: RunConfig, stages: Sequence[Plannable], measured: Measure) -> CostPlan:
    """The whole of a run on what a preset names, without the Hub."""
    download = Cost(1, sizes.n_bytes / DOWNLOAD_BYTES_PER_S, sizes.n_bytes, 0, 0)
    costs = _costs(stages, sizes, config, measured(sizes.d_model, config))
    return CostPlan(None, sizes, _all_to_do({(DOWNLOAD, DOWNLOAD): download, **costs}, config), from_records=True)


def _step(name: tuple[str, str], todo: int | None, cost: Cost, config: RunConfig, correction: float) -> Step:
    """A step of the plan with the rest of its costs; `todo` None means all of them."""
    todo = cost.n_tasks if todo is None else todo
    share = todo / max(1, cost.n_tasks)
    seconds, disk, usd = (share * whole for whole in (cost.seconds, cost.disk_bytes, cost.usd))
    memory = cost.memory_bytes(config.engine)
    return Step(*name, todo, cost.n_tasks, seconds * correction, seconds, disk, memory, usd)


def _all_to_do(costs: dict[tuple[str, str], Cost], config: RunConfig) -> list[Step]:
    return [_step(name, None, cost, config, 1.0) for name, cost in costs.items()]


def _download(files: list[RemoteFile]) -> Cost:
    n_bytes = sum(file.n_bytes for file in files)
    return Cost(len(files), n_bytes / DOWNLOAD_BYTES_PER_S, n_bytes, 0, 0)


def _train(sizes: Sizes, config: RunConfig, rates: Rates) -> dict[tuple[str, str], Cost]:
    name, cost = training_costs(sizes, config, rates)
    return {(TRAINING, name): cost}


def _costs(stages: Sequence[Plannable], sizes: Sizes, config: RunConfig, rates: Rates) -> dict[tuple[str, str], Cost]:
    return {(stage.name, name): cost for stage in stages for name, cost in stage.costs(sizes, config, rates).items()}
