"""The model that this process works with, kept between tasks because loading it costs more than a task."""

from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from threading import Lock

from torch import nn

from interp.activations.encoding import Encoder
from storage.checkpoints import Checkpoint
from storage.models import ModelFolder, open_model

_loading = Lock()


def loaded_model(path: Path, device: str = "cpu") -> tuple[ModelFolder, nn.Module]:
    """The model folder and its model; one model is held at a time."""
    with _loading:
        return _load(path, device)


@lru_cache(maxsize=1)
def _load(path: Path, device: str) -> tuple[ModelFolder, nn.Module]:
    folder = open_model(path)
    return folder, folder.load().to(device)


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
