"""What this machine has to offer a configuration: how many tasks at once, and on which device."""

import os

import torch
from llvmlite.binding import get_host_cpu_features

from configs.engine import EngineConfig
from interp.projection import Arithmetic


def n_workers(engine: EngineConfig) -> int:
    """Tasks at once."""
    return engine.workers or os.cpu_count() or 1


def threads_of_a_lone_task(engine: EngineConfig) -> int:
    """Threads within a task that has this process to itself; a worker of Dask has one."""
    return 1 if engine.runner == "dask" else n_workers(engine)


def arithmetic(engine: EngineConfig) -> Arithmetic:
    """On which device the products are computed, and whether they are screened in bfloat16.

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    if engine.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("engine.device is cuda; PyTorch sees no GPU here")
    gpu = engine.device != "cpu" and torch.cuda.is_available()
    features = get_host_cpu_features()
    has_bfloat16 = any(features.get(name) for name in ("avx512bf16", "amx-bf16", "bf16"))
    screen = has_bfloat16 if engine.bfloat16 == "auto" else engine.bfloat16
    return Arithmetic("cuda" if gpu else "cpu", screen and not gpu)
