"""What a step costs, and how fast this machine does the arithmetic that costs follow from."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from configs.engine import EngineConfig
from configs.run import RunConfig
from flows.subject.machine import arithmetic, n_workers
from interp.products import fast_products
from interp.projection import ROW_BLOCK, OutlierRule, project
from storage.block_cache import TILE_ROWS

LIBRARIES_BYTES = 0.6e9
"""What the libraries take of a process, whatever it computes."""


class Cost(NamedTuple):
    """What one step takes when nothing of it is done yet."""

    n_tasks: int
    seconds: float
    disk_bytes: float
    held_bytes: float
    """Memory for what a process holds once, whatever it does at once."""
    task_bytes: float
    """Memory for what each task holds for itself."""
    usd: float = 0.0
    """For questions to a language model, about."""
    interpreted: bool = False
    """Whether its tasks are work of the interpreter, which has processes of its own (`flows.running.processes`)."""

    def memory_bytes(self, engine: EngineConfig) -> float:
        """Memory of all processes together: threads share one; Dask, and work of the interpreter, have one for each
        worker beside the flow's."""
        at_once = min(n_workers(engine), self.n_tasks)
        apart = engine.runner == "dask" or (self.interpreted and at_once > 1)
        n_processes = at_once if apart else 1
        libraries = (n_processes + apart) * LIBRARIES_BYTES
        return libraries + n_processes * self.held_bytes + at_once * self.task_bytes


class Rates(NamedTuple):
    """Operations a second on all workers."""

    products: float
    """Float32 matrix products."""
    projections: float
    """The products of projections, selection and bfloat16 screening included."""
    slowness: float = 1.0
    """How many times as long as on the machine where they were fitted the seconds take that costs have as constants:
    work of the interpreter, of compiled loops and of memory."""

    @classmethod
    def measured(cls, d_model: int, config: RunConfig) -> "Rates":
        """This machine's, for a model of this width."""
        workers = n_workers(config.engine)
        with fast_products(d_model):
            return cls(gemm_flops(d_model, workers), projection_flops(d_model, config, workers), slowness())


SAMPLE_S = 0.0019
"""Seconds that `_sample` takes on the idle machine where the constants of costs were fitted."""

SAMPLED_S = 0.3
"""For so long samples are taken: a busy machine shows over more than one of the scheduler's turns."""


def slowness() -> float:
    """How many times as long as there a mixed sample of work takes here and now, on one core."""
    _sample()
    began, n = time.perf_counter(), 0
    while time.perf_counter() - began < SAMPLED_S:
        _sample()
        n += 1
    return (time.perf_counter() - began) / n / SAMPLE_S


def _sample() -> None:
    """A little of what tasks do beside products: words in the interpreter, sorting, and passes over memory."""
    words = {f"{number % 977:x}": number for number in range(8_000)}
    "".join(sorted(words))
    values = np.arange(300_000, dtype=np.uint32) * np.uint32(2_654_435_761)
    np.sort(values[:60_000])
    (values.astype(np.float32) * 0.5).sum()


def projection_flops(d_model: int, config: RunConfig, workers: int) -> float:
    """This machine's rate on projections like those of a run, in operations a second: a tenth of a second of them."""
    settings = config.weightlens
    rows, columns = torch.randn(ROW_BLOCK, d_model), torch.randn(TILE_ROWS, d_model)
    chosen = arithmetic(config.engine)
    tiles = [(start, columns) for start in range(0, 16 * len(columns), len(columns))]
    n_columns = len(tiles) * len(columns)

    def sample(_: int) -> None:
        torch.get_num_threads()  # as tasks do: otherwise each thread takes every core
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
