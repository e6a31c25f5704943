"""What a run would do, and about how much time, disk and memory it would take."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch

from configs.run import RunConfig
from flows import ingest, weightlens
from flows.engine import arithmetic, n_workers
from flows.subject import Source, Subject, identify, open_source
from interp.projection import POOL_ROOM, project
from tasks.project import COLUMNS

TOKENS_TRAINED_PER_FORWARD = 3
"""A training step costs about three forward passes of a transcoder: forward, and backward to inputs and weights."""

PARTS_BYTES_PER_FEATURE = 1_500
"""Parquet parts and catalog rows a feature; measured on the demo checkpoint, where it was about 1,300."""

STARTUP_S = 12.0
"""Seconds until the first task: libraries, Prefect's server."""

PROPAGATE_S = 0.0005
"""Seconds a feature to hand tokens up and to word them."""


class Step(NamedTuple):
    """A line of the plan."""

    name: str
    todo: int
    total: int
    seconds: float
    disk_bytes: float
    memory_bytes: float


def plan(config: RunConfig) -> list[Step]:
    """What is left to do of a run, from what the store already holds. Nothing is written.

    Times follow from the arithmetic of each step, and from how fast this machine does a sample of it now.
    """
    source = open_source(config)
    rates = Rates.measured(source)
    if source.must_train:
        training = config.transcoder.train
        assert training is not None
        n_layers, d_model = source.model.n_layers, source.model.d_model
        coder = 2 * 2 * training.d_transcoder * d_model * TOKENS_TRAINED_PER_FORWARD
        flops = n_layers * training.n_steps * training.batch_tokens * (coder + model_flops(source))
        weights = training.d_transcoder * d_model * 8
        memory = model_bytes(source) + 4 * weights  # weights, gradients and Adam's two moments
        return [
            Step("train transcoders", n_layers, n_layers, flops / rates.products, n_layers * weights, memory),
            *_later(source, training.d_transcoder, rates),
        ]
    subject = identify(source)
    return [_ingest(subject, rates), *_weightlens(subject, rates)]


class Rates(NamedTuple):
    """Operations a second on all workers."""

    products: float
    """Float32 matrix products."""
    projections: float
    """The products of projections, selection and bfloat16 screening included."""

    @classmethod
    def measured(cls, source: Source) -> "Rates":
        workers = n_workers(source.config.engine)
        return cls(gemm_flops(source.model.d_model, workers), projection_flops(source, workers))


def _ingest(subject: Subject, rates: Rates) -> Step:
    n_layers, source = subject.attributes["n_layers"], subject.source
    todo = 0 if ingest.is_done(subject) else n_layers
    size = sum(path.stat().st_size for path in [*source.model.files, *subject.transcoders.files])
    measuring = n_layers * source.config.quality_tokens * 3 * model_flops(source) / rates.products
    layer = subject.attributes["d_transcoder"] * source.model.d_model * 8
    memory = model_bytes(source) + n_workers(source.config.engine) * 2 * layer
    return Step("ingest", todo, n_layers, size / 100e6 + measuring if todo else 0, size if todo else 0, memory)


def _weightlens(subject: Subject, rates: Rates) -> list[Step]:
    a, steps = subject.attributes, []
    costs = _costs(subject.source, a["d_transcoder"], a["n_tokens"], rates)
    for name, todo, total in weightlens.Work(subject).todo():
        seconds, disk, memory = costs[name]
        steps.append(Step(name, todo, total, todo / total * seconds, todo / total * disk, memory))
    return steps


def _later(source: Source, d_transcoder: int, rates: Rates) -> list[Step]:
    n_layers = source.model.n_layers
    steps = [Step("ingest", n_layers, n_layers, 0, 0, model_bytes(source))]
    shards = n_layers * -(-d_transcoder // source.config.shard_size)
    for name, cost in _costs(source, d_transcoder, source.model.n_tokens, rates).items():
        steps.append(Step(name, shards, shards, *cost))
    return steps


def _costs(source: Source, d_transcoder: int, n_tokens: int, rates: Rates) -> dict[str, tuple[float, float, float]]:
    """Seconds, bytes on disk and bytes in memory of each WeightLens step."""
    n_layers, d_model, config = source.model.n_layers, source.model.d_model, source.config
    workers = n_workers(config.engine)
    upstream = sum(len(config.weightlens.upstream_layers(layer)) for layer in range(n_layers))
    n_features = n_layers * d_transcoder
    single = n_tokens * (2 * model_flops(source) + 2 * n_features * d_model)
    projections = 2 * d_model * d_transcoder * (2 * n_tokens * n_layers + upstream * d_transcoder)
    layer = d_transcoder * d_model * 8
    streams = 3 * weightlens.TOKENS_PER_BLOCK * n_layers * d_model * 4
    columns = min(COLUMNS.max_bytes, 2 * n_tokens * d_model * 4 + n_features * d_model * 4)
    shard = config.shard_size * (3 * d_model * 4 + 2 * POOL_ROOM * min(config.weightlens.token_pool, n_tokens) * 8)
    return {
        "single tokens": (
            single / rates.products,
            n_layers * n_tokens * 64 * 8,
            model_bytes(source) + workers * (layer + streams),
        ),
        "project": (projections / rates.projections, n_features * PARTS_BYTES_PER_FEATURE, columns + workers * shard),
        "propagate": (n_features * PROPAGATE_S, 0, workers * n_features * 200),
    }


def model_bytes(source: Source) -> float:
    """The model in memory, in float32."""
    return sum(path.stat().st_size for path in source.model.weight_files) * 4 / bytes_per_weight(source)


def bytes_per_weight(source: Source) -> int:
    """Of the model's files, by its configuration."""
    return getattr(source.model.config.dtype, "itemsize", 4)


def model_flops(source: Source) -> float:
    """A forward pass, a token: two operations a weight."""
    return model_bytes(source) / 4 * 2


def projection_flops(source: Source, workers: int) -> float:
    """This machine's rate on projections like those of a run, in operations a second: a tenth of a second of them."""
    settings, d_model = source.config.weightlens, source.model.d_model
    rows, columns = torch.randn(512, d_model), torch.randn(4096, d_model)
    how = arithmetic(source.config.engine)
    tiles = [(start, columns) for start in range(0, 8 * len(columns), len(columns))]
    n_columns = len(tiles) * len(columns)

    def sample(_: int) -> None:
        torch.get_num_threads()  # as tasks do: otherwise each thread takes every core
        pool, threshold = settings.token_pool, settings.z_tokens
        project(
            rows.to(how.device),
            lambda: iter(tiles),
            n_columns,
            mode=settings.mode,
            pool=pool,
            threshold=threshold,
            screen=how.screen,
        )

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // workers))
    try:
        sample(0)  # compiles
        began = time.perf_counter()
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(sample, range(workers)))
        return workers * 2 * d_model * len(rows) * n_columns / (time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)


def gemm_flops(d_model: int, n_threads: int) -> float:
    """This machine's float32 matrix-multiply rate at a projection's shape, operations a second."""
    rows, columns = torch.randn(1024, d_model), torch.randn(4096, d_model)
    before = torch.get_num_threads()
    torch.set_num_threads(min(n_threads, before))
    try:
        torch.mm(rows, columns.T)
        began, n = time.perf_counter(), 0
        while time.perf_counter() - began < 0.2:
            torch.mm(rows, columns.T)
            n += 1
        return n * 2 * rows.shape[0] * columns.shape[0] * d_model / (time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
