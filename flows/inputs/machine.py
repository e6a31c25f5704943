"""This machine's resources for a configuration: number of tasks at a time, and the device."""

import os

import torch
from llvmlite.binding import get_host_cpu_features

from configs.engine import EngineConfig
from interp.projection import Arithmetic


def n_workers(engine: EngineConfig) -> int:
    """Number of tasks at a time."""
    if engine.devices is not None:
        return len(visible_devices(engine))
    return engine.workers or os.cpu_count() or 1


def visible_devices(engine: EngineConfig) -> list[str]:
    """The GPUs of `engine.devices`, in the notation of CUDA_VISIBLE_DEVICES.

    Raises:
        ValueError: there are fewer, or none.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = n_gpus if engine.devices == "all" else engine.devices or 1
    if not 0 < wanted <= n_gpus:
        raise ValueError(f"engine.devices is {engine.devices}; PyTorch sees {n_gpus} GPUs here")
    known = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (known or [str(at) for at in range(n_gpus)])[:wanted]


def threads_of_a_lone_task(engine: EngineConfig) -> int:
    """Threads in a task that has this process to itself; a Dask worker has one."""
    return 1 if engine.runner == "dask" else n_workers(engine)


def arithmetic(engine: EngineConfig) -> Arithmetic:
    """The device on which products are computed, and whether candidates are found in bfloat16.

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    chosen = device(engine)
    features = get_host_cpu_features()
    has_bfloat16 = any(features.get(name) for name in ("avx512bf16", "amx-bf16", "bf16"))
    screen = has_bfloat16 if engine.bfloat16 == "auto" else engine.bfloat16
    return Arithmetic(chosen, screen and chosen == "cpu")


def device(engine: EngineConfig) -> str:
    """The device on which every stage computes, as PyTorch calls it. Nothing else decides it.

    Raises:
        ValueError: a GPU is asked for that PyTorch does not see.
    """
    asked, n_gpus = engine.device, torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "auto":
        return "cuda" if n_gpus else "cpu"
    if asked == "mps" and not torch.backends.mps.is_available():
        raise ValueError("engine.device is mps; PyTorch sees no GPU of Apple's here")
    if asked.startswith("cuda") and int(asked.partition(":")[2] or 0) >= n_gpus:
        seen = "no GPU" if n_gpus == 0 else f"{n_gpus} of them, cuda:0 to cuda:{n_gpus - 1},"
        raise ValueError(f"engine.device is {asked}; PyTorch sees {seen} here")
    return asked
