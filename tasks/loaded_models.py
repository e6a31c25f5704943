"""The model that this process uses, cached between tasks because loading it takes longer than a task."""

import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from pathlib import Path
from threading import Lock

import torch
from torch import nn

from interp.activations.encoding import Encoder, encoder_bytes
from interp.batches import remember_sizes
from interp.projection import FLOAT32, Arithmetic
from interp.streamed_layers import StreamedLayers, layers_to_stream, weight_bytes
from interp.transcoder import Transcoder
from storage.checkpoints import Checkpoint, CheckpointAttributes
from storage.lru_cache import LRUCache
from storage.models import ModelFolder, open_model
from tasks.batch_sizes import sizes_for
from tasks.device_memory import room_for_cache, room_for_weights

_loading = Lock()


def loaded_model(
    path: Path, device: str = "cpu", *, open_attention: bool = False, dtype: torch.dtype = torch.float32
) -> tuple[ModelFolder, nn.Module]:
    """The model folder and its model; one model is kept in memory at a time. `open_attention`: the model returns its
    attention patterns.

    Layers that do not fit on the device are streamed from host memory (`interp.streamed_layers`).

    Raises:
        ValueError: a weight does not fit the model, or embeddings and two layers do not fit on the device.
    """
    with _loading:
        return _load(path, device, open_attention, dtype)


@lru_cache(maxsize=1)
def _load(path: Path, device: str, open_attention: bool, dtype: torch.dtype) -> tuple[ModelFolder, nn.Module]:
    folder = open_model(path)
    model = folder.load()
    for weight in model.parameters():  # but not buffers: rotary angles need float32
        weight.data = weight.data.to(dtype)
    if open_attention:
        model.set_attn_implementation("eager")
    remember_sizes(sizes_for(model, device))
    return folder, _placed(folder, model, device)


def _placed(folder: ModelFolder, model: nn.Module, device: str) -> nn.Module:
    room, blocks = room_for_weights(device), folder.family.block_modules(model)
    if room is None:
        return model.to(device)
    try:
        streamed = layers_to_stream(*weight_bytes(blocks, model), room)
    except ValueError as error:
        raise ValueError(f"{folder.path} does not fit on {device}, even layer by layer: {error}") from None
    if not streamed:
        return model.to(device)
    StreamedLayers(model, blocks, streamed, torch.device(device))
    return model


def threads(n: int) -> ThreadPoolExecutor:
    """Threads for work within a task, each with its share of the cores."""
    return ThreadPoolExecutor(n, initializer=torch.get_num_threads)  # otherwise matrix products use every core


def give_memory_back() -> None:
    """Return freed memory to the system. The C library would keep it for this process, separately for each thread, and
    the sum could exceed the memory bound."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc; other libraries return it anyway
    if trim is not None:
        trim(0)


def forget_model() -> None:
    """Drop the cached model; it is loaded again when needed."""
    with _loading:
        _load.cache_clear()


ENCODERS: LRUCache[Encoder] = LRUCache(1_400_000_000, lambda encoder: encoder.n_bytes)
"""Encoders that a process keeps: GPT-2-small's fit with their screens, larger ones are read again at every step."""


@cache
def _encoders_on(device: str) -> LRUCache[Encoder]:
    return LRUCache(room_for_cache(device, ENCODERS.max_bytes), lambda encoder: encoder.n_bytes)


TRANSCODERS: LRUCache[Transcoder] = LRUCache(4_000_000_000, lambda transcoder: transcoder.n_bytes)
"""Whole transcoders that a process keeps: GPT-2-small's take 1.8 GB, larger ones are read again for every sequence."""


def layers_together(attributes: CheckpointAttributes, layers: Sequence[int]) -> list[tuple[int, ...]]:
    """Layers in groups whose encoders are kept in memory together."""
    encoder = encoder_bytes(attributes.d_transcoder, attributes.d_model, screened=False)
    at_once = max(1, ENCODERS.max_bytes // encoder)
    return [tuple(layers[start : start + at_once]) for start in range(0, len(layers), at_once)]


def loaded_encoder(checkpoint: Checkpoint, layer: int, arithmetic: Arithmetic = FLOAT32) -> Encoder:
    """A layer's encoder in float32, with a screen if candidates are found in bfloat16. On a GPU, encoders stay there as
    far as a tenth of its memory suffices."""

    def read() -> Encoder:
        encoder = checkpoint.encoder(layer, arithmetic.device)
        return encoder.screened() if arithmetic.screen else encoder

    kept = ENCODERS if arithmetic.device == "cpu" else _encoders_on(arithmetic.device)
    return kept.get((checkpoint.path, layer, arithmetic), read)


def loaded_transcoder(checkpoint: Checkpoint, layer: int, device: str = "cpu") -> Transcoder:
    """A layer's transcoder in float32, with all its decoders."""
    key = (checkpoint.path, layer, device)
    return TRANSCODERS.get(key, lambda: checkpoint.transcoder(layer, later=True).on(device))
