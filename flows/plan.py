"""What a run would do, and about how long and how much disk it would take."""

import time
from typing import NamedTuple

import torch

from configs.run import RunConfig
from flows import ingest, weightlens
from flows.engine import n_workers
from flows.subject import Source, Subject, identify, open_source

TOKENS_TRAINED_PER_FORWARD = 3
"""A training step costs about three forward passes of a transcoder: forward, and backward to inputs and weights."""

PARTS_BYTES_PER_FEATURE = 1_500
"""Parquet parts and catalog rows a feature; measured on the demo checkpoint, where it was about 1,300."""


class Step(NamedTuple):
    """A line of the plan."""

    name: str
    todo: int
    total: int
    seconds: float
    disk_bytes: float


def plan(config: RunConfig) -> list[Step]:
    """What is left to do of a run, from what the store already holds. Nothing is written.

    Times follow from the arithmetic of each step and this machine's matrix-multiply rate, measured here.
    """
    source = open_source(config)
    rate = gemm_flops(source.model.d_model, n_workers(config.engine))
    if source.must_train:
        training = config.transcoder.train
        assert training is not None
        n_layers, d_model = source.model.n_layers, source.model.d_model
        coder = 2 * 2 * training.d_transcoder * d_model * TOKENS_TRAINED_PER_FORWARD
        flops = n_layers * training.n_steps * training.batch_tokens * (coder + model_flops(source))
        disk = n_layers * training.d_transcoder * d_model * 8
        return [
            Step("train transcoders", n_layers, n_layers, flops / rate, disk),
            *_later(source, training.d_transcoder, rate),
        ]
    subject = identify(source)
    return [_ingest(subject), *_weightlens(subject, rate)]


def _ingest(subject: Subject) -> Step:
    n_layers = subject.attributes["n_layers"]
    todo = 0 if ingest.is_done(subject) else n_layers
    files = [*subject.source.model.files, *subject.transcoders.files]
    size = sum(path.stat().st_size for path in files)
    return Step("ingest", todo, n_layers, size / 100e6 if todo else 0, size if todo else 0)


def _weightlens(subject: Subject, rate: float) -> list[Step]:
    a, steps = subject.attributes, []
    costs = _costs(subject.source, a["d_transcoder"], a["n_tokens"])
    for name, todo, total in weightlens.Work(subject).todo():
        flops, disk = costs[name]
        steps.append(Step(name, todo, total, todo / total * flops / rate, todo / total * disk))
    return steps


def _later(source: Source, d_transcoder: int, rate: float) -> list[Step]:
    n_layers = source.model.n_layers
    steps = [Step("ingest", n_layers, n_layers, 0, 0)]
    shards = n_layers * -(-d_transcoder // source.config.shard_size)
    for name, (flops, disk) in _costs(source, d_transcoder, source.model.n_tokens).items():
        steps.append(Step(name, shards, shards, flops / rate, disk))
    return steps


def _costs(source: Source, d_transcoder: int, n_tokens: int) -> dict[str, tuple[float, float]]:
    """Floating-point operations and bytes on disk of each WeightLens step."""
    n_layers, d_model = source.model.n_layers, source.model.d_model
    upstream = sum(len(source.config.weightlens.upstream_layers(layer)) for layer in range(n_layers))
    n_features = n_layers * d_transcoder
    single = n_tokens * (2 * model_flops(source) + 2 * n_features * d_model)
    projections = 2 * d_model * d_transcoder * (2 * n_tokens * n_layers + upstream * d_transcoder)
    return {
        "single tokens": (single, n_layers * n_tokens * 64 * 8),
        "project": (projections, n_features * PARTS_BYTES_PER_FEATURE),
        "propagate": (n_features * 1e6, 0),
    }


def model_flops(source: Source) -> float:
    """A forward pass, a token: two operations a weight."""
    return sum(path.stat().st_size for path in source.model.weight_files) / 4 * 2


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
