"""The cost of a step, and this machine's speed, from which times are computed."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from configs.engine import EngineConfig
from configs.run import RunConfig
from flows.inputs.machine import arithmetic, n_workers
from interp.products import fast_products
from interp.projection import ROW_BLOCK, OutlierRule, project
from storage.block_cache import TILE_ROWS

LIBRARIES_BYTES = 0.6e9
"""Bytes that the libraries take in a process, in any case."""


class Cost(NamedTuple):
    """The cost of one step from its beginning."""

    n_tasks: int
    seconds: float
    disk_bytes: float
    held_bytes: float
    """Memory that a process needs once, independent of its number of tasks."""
    task_bytes: float
    """Memory that each task needs."""
    usd: float = 0.0
    """Estimated cost of questions to a language model, in USD."""
    interpreted: bool = False
    """Whether its tasks spend their time in the Python interpreter and get processes (`flows.running.processes`)."""

    def memory_bytes(self, engine: EngineConfig) -> float:
        """Memory of all processes together. Threads share one process; Dask, and processes for the interpreter's work,
        have one for each worker besides the flow's."""
        at_once = min(n_workers(engine), self.n_tasks)
        apart = engine.runner == "dask" or (self.interpreted and at_once > 1)
        n_processes = at_once if apart else 1
        libraries = (n_processes + apart) * LIBRARIES_BYTES
        return libraries + n_processes * self.held_bytes + at_once * self.task_bytes


class Rates(NamedTuple):
    """Speed of all workers together, in operations per second."""

    products: float
    """Speed of float32 matrix products."""
    projections: float
    """Speed of the products of projections, including selection and the bfloat16 screen."""
    slowness: float = 1.0
    """Factor for the constants of costs, which are in seconds of the machine where they were fitted: work of the
    interpreter, of compiled loops and of memory."""

    @classmethod
    def measured(cls, d_model: int, config: RunConfig) -> "Rates":
        """The rates of this machine, for a model of this width."""
        workers = n_workers(config.engine)
        with fast_products(d_model):
            return cls(gemm_flops(d_model, workers), projection_flops(d_model, config, workers), slowness())


SAMPLE_S = 0.0019
"""Seconds that `_sample` takes on the idle machine where the constants of costs were fitted."""

SAMPLED_S = 0.3
"""Seconds for which samples are taken, so that the load of a busy machine is averaged over several turns of the
scheduler."""


def slowness() -> float:
    """The time that a small mixed piece of work takes on one core of this machine now, divided by its time on the
    machine where the constants of costs were fitted."""
    _sample()
    began, n = time.perf_counter(), 0
    while time.perf_counter() - began < SAMPLED_S:
        _sample()
        n += 1
    return (time.perf_counter() - began) / n / SAMPLE_S


def _sample() -> None:
    """A small amount of what tasks do besides matrix products: words in the interpreter, sorting, passes over
    memory."""
    words = {f"{number % 977:x}": number for number in range(8_000)}
    "".join(sorted(words))
    values = np.arange(300_000, dtype=np.uint32) * np.uint32(2_654_435_761)
    np.sort(values[:60_000])
    (values.astype(np.float32) * 0.5).sum()


def projection_flops(d_model: int, config: RunConfig, workers: int) -> float:
    """This machine's speed for projections like those of a run, in operations per second, measured for a tenth of a
    second."""
    settings = config.weightlens
    rows, columns = torch.randn(ROW_BLOCK, d_model), torch.randn(TILE_ROWS, d_model)
    chosen = arithmetic(config.engine)
    tiles = [(start, columns) for start in range(0, 16 * len(columns), len(columns))]
    n_columns = len(tiles) * len(columns)

    def sample(_: int) -> None:
        torch.get_num_threads()  # as in tasks: otherwise each thread uses every core
        rule = OutlierRule(settings.mode, settings.token_pool, settings.z_tokens)
        project(rows.to(chosen.device), lambda: iter(tiles), n_columns, rule, screen=chosen.screen)

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


def gemm_flops(d_model: int, n_threads: int = 1) -> float:
    """This machine's speed of float32 matrix products in a projection's shape, in operations per second."""
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
