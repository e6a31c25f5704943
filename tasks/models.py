"""The model that this process works with, kept between tasks because loading it costs more than a task."""

from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from torch import nn

from interp.activations.encoding import Encoder
from interp.transcoder import Transcoder
from storage.checkpoints import Checkpoint
from storage.models import ModelFolder, open_model

_loading = Lock()


def loaded_model(path: Path, device: str = "cpu", *, open_attention: bool = False) -> tuple[ModelFolder, nn.Module]:
    """The model folder and its model; one model is held at a time. `open_attention`: one that says its patterns."""
    with _loading:
        return _load(path, device, open_attention)


@lru_cache(maxsize=1)
def _load(path: Path, device: str, open_attention: bool) -> tuple[ModelFolder, nn.Module]:
    folder = open_model(path)
    model: Any = folder.load().to(device)
    if open_attention:
        model.set_attn_implementation("eager")
    return folder, model


def forget_model() -> None:
    """Let go of the model; whoever needs it again loads it."""
    with _loading:
        _load.cache_clear()


ENCODER_BYTES = 1_200_000_000
"""Encoders that a process keeps: GPT-2-small's fit, larger ones are read again for every few thousand tokens."""

_encoders: OrderedDict[tuple[Path, int, str], Encoder] = OrderedDict()


def loaded_encoder(checkpoint: Checkpoint, layer: int, device: str = "cpu") -> Encoder:
    """A layer's encoder in float32. The most recently used are kept, up to `ENCODER_BYTES`."""
    key = (checkpoint.path, layer, device)
    with _loading:
        if key in _encoders:
            _encoders.move_to_end(key)
            return _encoders[key]
    encoder = checkpoint.encoder(layer, device)
    with _loading:
        _encoders[key] = encoder
        while sum(held.W_enc.nbytes for held in _encoders.values()) > ENCODER_BYTES:
            _encoders.popitem(last=False)
    return encoder


TRANSCODER_BYTES = 4_000_000_000
"""Whole transcoders that a process keeps: GPT-2-small's take 1.8 GB, larger ones are read again for every sequence."""

_transcoders: OrderedDict[tuple[Path, int, str], Transcoder] = OrderedDict()


def loaded_transcoder(checkpoint: Checkpoint, layer: int, device: str = "cpu") -> Transcoder:
    """A layer's transcoder in float32, every decoder included. The last used are kept, up to `TRANSCODER_BYTES`."""
    key = (checkpoint.path, layer, device)
    with _loading:
        if key in _transcoders:
            _transcoders.move_to_end(key)
            return _transcoders[key]
    transcoder = checkpoint.transcoder(layer, later=True).on(device)
    with _loading:
        _transcoders[key] = transcoder
        while len(_transcoders) > 1 and sum(coder.n_bytes for coder in _transcoders.values()) > TRANSCODER_BYTES:
            _transcoders.popitem(last=False)
    return transcoder
