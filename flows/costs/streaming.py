"""Whether a model fits on its GPU, and the message or error if it does not."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from configs.run import RunConfig
from flows.costs.machines import machine_named
from flows.costs.sizes import Sizes
from flows.inputs.machine import device
from interp.streamed_layers import layers_to_stream
from tasks.device_memory import WEIGHTS_SHARE, device_bytes


class Gpu(NamedTuple):
    """A GPU by name, with its memory in bytes."""

    name: str
    memory: float


def gpu_of(config: RunConfig, machine: str | None = None) -> Gpu | None:
    """The GPU on which a configuration runs here or on a named machine; None if it has no memory of its own."""
    if machine is not None:
        known = machine_named(machine)
        return Gpu(machine, known.memory) if known.is_gpu else None
    where = device(config.engine)
    memory = device_bytes(where)
    return None if memory is None else Gpu("cuda:0" if where == "cuda" else where, memory)


def run_bytes(sizes: Sizes, config: RunConfig) -> float:
    """Bytes of the model's weights in the number format in which it runs on text."""
    dtype = config.model.dtype
    return sizes.n_weights * (sizes.bytes_in_files if dtype == "auto" else getattr(torch, dtype).itemsize)


def streaming(sizes: Sizes, config: RunConfig, machine: str | None = None) -> str | None:
    """The message that layers are streamed; None if the model fits."""
    gpu, needed = gpu_of(config, machine), run_bytes(sizes, config)
    if gpu is None or needed <= WEIGHTS_SHARE * gpu.memory:
        return None
    return (
        f"layers are streamed from host memory: {needed / 1e9:,.1f} GB model, {gpu.memory / 1e9:,.1f} GB on "
        f"{gpu.name}, of which weights may take {WEIGHTS_SHARE:.0%}"
    )


def check_model_fits(sizes: Sizes, config: RunConfig, left: Sequence[str]) -> None:
    """Refuse a model whose embeddings and two layers do not fit, and attribution through a model that is streamed.
    `left` are the stages to do.

    Raises:
        ValueError: what is needed and what there is.
    """
    gpu = gpu_of(config)
    if gpu is None:
        return
    room, needed = WEIGHTS_SHARE * gpu.memory, run_bytes(sizes, config)
    embeddings = needed * sizes.embedding_weights / sizes.n_weights
    layer = int((needed - embeddings) / sizes.n_layers)
    try:
        layers_to_stream([layer] * sizes.n_layers, int(embeddings), int(room))
    except ValueError as error:
        raise ValueError(
            f"engine.device: the model does not fit on {gpu.name}, even layer by layer: {error}; compute on the CPU "
            "(engine.device=cpu) or on a GPU with more memory"
        ) from None
    if "circuitlens" in left and sizes.model_bytes > room:
        raise ValueError(
            f"engine.device: circuitlens needs the weights of all layers at once, {sizes.model_bytes / 1e9:,.1f} GB in "
            f"float32, and {gpu.name} has {gpu.memory / 1e9:,.1f} GB, of which weights may take {WEIGHTS_SHARE:.0%}; "
            "leave it out of stages, or run it on the CPU (engine.device=cpu) or on a GPU with more memory"
        )
