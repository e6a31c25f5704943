"""The model that this process works with, kept between tasks because loading it costs more than a task."""

from functools import lru_cache
from pathlib import Path
from threading import Lock

from torch import nn

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
