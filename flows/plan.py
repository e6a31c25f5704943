"""What a run would do, and about how much time, disk and memory it would take."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch

from configs.run import RunConfig
from flows import ingest, weightlens
from flows.engine import arithmetic, n_workers
from flows.origin import pinned, to_download
from flows.sizes import Sizes, sizes_of, sizes_on_hub, sizes_to_train
from flows.subject import Subject, identify, open_source
from interp.projection import POOL_ROOM, project
from storage.hub import RemoteFile
from tasks.project import COLUMNS

TOKENS_TRAINED_PER_FORWARD = 3
"""A training step costs about three forward passes of a transcoder: forward, and backward to inputs and weights."""

PARTS_BYTES_PER_FEATURE = 2_100
"""Parquet parts and catalog rows a feature: 2,040 in store/demo after `make demo`, both over 4,096 features."""

DOWNLOAD_BYTES_PER_S = 50e6
"""A guess, which only a download could better."""

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
    """What is left to do of a run, from what the store and the cache already hold. Nothing is written to the store, and
    of what is on the Hub only small files are downloaded.

    Times follow from the arithmetic of each step, and from how fast this machine does a sample of it now.
    """
    config = pinned(config)
    left = to_download(config)
    if left:
        sizes = sizes_on_hub(config)
        rates = Rates.measured(sizes.d_model, config)
        training = [] if config.transcoder.train is None else [_train(sizes, config, rates)]
        return [_download(left), *training, *_later(sizes, config, rates)]
    source = open_source(config)
    if source.must_train:
        sizes = sizes_to_train(source)
        rates = Rates.measured(sizes.d_model, config)
        return [_train(sizes, config, rates), *_later(sizes, config, rates)]
    subject = identify(source)
    sizes = sizes_of(subject)
    rates = Rates.measured(sizes.d_model, config)
    todo = 0 if ingest.is_done(subject) else sizes.n_layers
    return [_ingest(sizes, config, rates, todo), *_weightlens(subject, sizes, rates)]


class Rates(NamedTuple):
    """Operations a second on all workers."""

    products: float
    """Float32 matrix products."""
    projections: float
    """The products of projections, selection and bfloat16 screening included."""

    @classmethod
    def measured(cls, d_model: int, config: RunConfig) -> "Rates":
        """This machine's, for a model of this width."""
        workers = n_workers(config.engine)
        return cls(gemm_flops(d_model, workers), projection_flops(d_model, config, workers))


def _download(files: list[RemoteFile]) -> Step:
    n_bytes = sum(file.n_bytes for file in files)
    return Step("download", len(files), len(files), n_bytes / DOWNLOAD_BYTES_PER_S, n_bytes, 0)


def _train(sizes: Sizes, config: RunConfig, rates: Rates) -> Step:
    training = config.transcoder.train
    assert training is not None
    coder = 2 * 2 * sizes.d_transcoder * sizes.d_model * TOKENS_TRAINED_PER_FORWARD
    flops = sizes.n_layers * training.n_steps * training.batch_tokens * (coder + sizes.model_flops)
    weights = sizes.d_transcoder * sizes.d_model * 8
    memory = sizes.model_bytes + 4 * weights  # weights, gradients and Adam's two moments
    n_layers = sizes.n_layers
    return Step("train transcoders", n_layers, n_layers, flops / rates.products, n_layers * weights, memory)


def _ingest(sizes: Sizes, config: RunConfig, rates: Rates, todo: int) -> Step:
    measuring = sizes.n_layers * config.quality_tokens * 3 * sizes.model_flops / rates.products
    layer = sizes.d_transcoder * sizes.d_model * 8
    memory = sizes.model_bytes + n_workers(config.engine) * 2 * layer
    seconds, disk = (sizes.n_bytes / 100e6 + measuring, sizes.n_bytes) if todo else (0, 0)
    return Step("ingest", todo, sizes.n_layers, seconds, disk, memory)


def _weightlens(subject: Subject, sizes: Sizes, rates: Rates) -> list[Step]:
    steps = []
    costs = weightlens_costs(sizes, subject.config, rates)
    for name, todo, total in weightlens.Work(subject).todo():
        seconds, disk, memory = costs[name]
        steps.append(Step(name, todo, total, todo / total * seconds, todo / total * disk, memory))
    return steps


def _later(sizes: Sizes, config: RunConfig, rates: Rates) -> list[Step]:
    steps = [_ingest(sizes, config, rates, sizes.n_layers)]
    shards = sizes.n_layers * -(-sizes.d_transcoder // config.shard_size)
    for name, cost in weightlens_costs(sizes, config, rates).items():
        n_tasks = -(-sizes.n_tokens // weightlens.TOKENS_PER_BLOCK) if name == "single tokens" else shards
        steps.append(Step(name, n_tasks, n_tasks, *cost))
    return steps


def weightlens_costs(sizes: Sizes, config: RunConfig, rates: Rates) -> dict[str, tuple[float, float, float]]:
    """Seconds, bytes on disk and bytes in memory of each WeightLens step."""
    n_layers, d_model, n_tokens, d_transcoder = sizes.n_layers, sizes.d_model, sizes.n_tokens, sizes.d_transcoder
    workers = n_workers(config.engine)
    upstream = sum(len(config.weightlens.upstream_layers(layer)) for layer in range(n_layers))
    n_features = n_layers * d_transcoder
    single = n_tokens * (2 * sizes.model_flops + 2 * n_features * d_model)
    projections = 2 * d_model * d_transcoder * (2 * n_tokens * n_layers + upstream * d_transcoder)
    layer = d_transcoder * d_model * 8
    streams = 3 * weightlens.TOKENS_PER_BLOCK * n_layers * d_model * 4
    columns = min(COLUMNS.max_bytes, 2 * n_tokens * d_model * 4 + n_features * d_model * 4)
    shard = config.shard_size * (3 * d_model * 4 + 2 * POOL_ROOM * min(config.weightlens.token_pool, n_tokens) * 8)
    return {
        "single tokens": (
            single / rates.products,
            n_layers * n_tokens * 64 * 8,
            sizes.model_bytes + workers * (layer + streams),
        ),
        "project": (projections / rates.projections, n_features * PARTS_BYTES_PER_FEATURE, columns + workers * shard),
        "propagate": (n_features * PROPAGATE_S, 0, workers * n_features * 200),
    }


def projection_flops(d_model: int, config: RunConfig, workers: int) -> float:
    """This machine's rate on projections like those of a run, in operations a second: a tenth of a second of them."""
    settings = config.weightlens
    rows, columns = torch.randn(512, d_model), torch.randn(4096, d_model)
    how = arithmetic(config.engine)
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
