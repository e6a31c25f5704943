"""What a run would do, and about how much time, disk and memory it would take."""

from typing import NamedTuple

from configs.run import RunConfig
from flows import coactivation, ingest
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import Sizes, sizes_of, sizes_on_hub, sizes_to_train
from flows.describe_checkpoint import STAGES
from flows.subject.origin import pinned, to_download
from flows.subject.subject import Subject, identify, open_source
from storage.bucket.working_copy import refresh_all
from storage.hub import RemoteFile

TOKENS_TRAINED_PER_FORWARD = 3
"""A training step costs about three forward passes of a transcoder: forward, and backward to inputs and weights."""

DOWNLOAD_BYTES_PER_S = 50e6
"""A guess, which only a download could better."""

STARTUP_S = 12.0
"""Seconds until the first task: libraries, Prefect's server."""

TRAIN = "train transcoders"


class Step(NamedTuple):
    """A line of the plan."""

    name: str
    todo: int
    total: int
    seconds: float
    disk_bytes: float
    memory_bytes: float
    usd: float = 0.0


def plan(config: RunConfig) -> list[Step]:
    """What is left to do of a run, from what the store and the cache already hold. Nothing is written to the store, and
    of what is on the Hub only small files are downloaded.

    Times follow from the arithmetic of each step, and from how fast this machine does a sample of it now.

    Raises:
        ValueError: the co-activation matrices that are left do not fit on the disk.
    """
    steps = _steps(pinned(config))
    for step in steps:
        if step.name == "coactivation":
            coactivation.refuse_what_does_not_fit(config, step.disk_bytes)
    return steps


def _steps(config: RunConfig) -> list[Step]:
    left = to_download(config)
    if left:
        sizes = sizes_on_hub(config)
        rates = Rates.measured(sizes.d_model, config)
        training = {} if config.transcoder.train is None else {TRAIN: _train(sizes, config, rates)}
        return _all_to_do({"download": _download(left), **training, **_later(sizes, config, rates)}, config)
    source = open_source(config)
    if source.must_train:
        sizes = sizes_to_train(source)
        rates = Rates.measured(sizes.d_model, config)
        return _all_to_do({TRAIN: _train(sizes, config, rates), **_later(sizes, config, rates)}, config)
    subject = identify(source)
    refresh_all(source.store)
    sizes = sizes_of(subject)
    rates = Rates.measured(sizes.d_model, config)
    todo = 0 if ingest.is_done(subject) else sizes.n_layers
    return [_step("ingest", todo, _ingest(sizes, config, rates), config), *_stages(subject, sizes, rates)]


def _step(name: str, todo: int, cost: Cost, config: RunConfig) -> Step:
    """Of a step, what is left of its costs."""
    share = todo / max(1, cost.n_tasks)
    seconds, disk, usd = (share * whole for whole in (cost.seconds, cost.disk_bytes, cost.usd))
    return Step(name, todo, cost.n_tasks, seconds, disk, cost.memory_bytes(config.engine), usd)


def _all_to_do(costs: dict[str, Cost], config: RunConfig) -> list[Step]:
    return [_step(name, cost.n_tasks, cost, config) for name, cost in costs.items()]


def _download(files: list[RemoteFile]) -> Cost:
    n_bytes = sum(file.n_bytes for file in files)
    return Cost(len(files), n_bytes / DOWNLOAD_BYTES_PER_S, n_bytes, 0, 0)


def _train(sizes: Sizes, config: RunConfig, rates: Rates) -> Cost:
    training = config.transcoder.train
    assert training is not None
    coder = 2 * 2 * sizes.d_transcoder * sizes.d_model * TOKENS_TRAINED_PER_FORWARD
    flops = sizes.n_layers * training.n_steps * training.batch_tokens * (coder + sizes.model_flops)
    weights = sizes.d_transcoder * sizes.d_model * 8
    trained = 4 * weights  # with gradients and Adam's two moments
    return Cost(sizes.n_layers, flops / rates.products, sizes.n_layers * weights, sizes.model_bytes, trained)


def _ingest(sizes: Sizes, config: RunConfig, rates: Rates) -> Cost:
    measuring = sizes.n_layers * config.quality_tokens * 3 * sizes.model_flops / rates.products
    layer = sizes.d_transcoder * sizes.d_model * 8
    return Cost(sizes.n_layers, sizes.n_bytes / 100e6 + measuring, sizes.n_bytes, sizes.model_bytes, 2 * layer)


def _stages(subject: Subject, sizes: Sizes, rates: Rates) -> list[Step]:
    steps, config = [], subject.config
    for name in config.stages:
        stage = STAGES[name]
        todo = stage.todo(subject)
        for title, cost in stage.costs(sizes, config, rates).items():
            left = cost.n_tasks if todo[title] is None else todo[title]
            steps.append(_step(title, left, cost, config))
    return steps


def _later(sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, Cost]:
    stages = [STAGES[name].costs(sizes, config, rates) for name in config.stages]
    return {"ingest": _ingest(sizes, config, rates), **{name: cost for costs in stages for name, cost in costs.items()}}
