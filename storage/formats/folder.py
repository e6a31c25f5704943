"""What every transcoder format provides, and the checks they share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from interp.capture import Hooks
from interp.transcoder import Transcoder

WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class TranscoderFolder:
    """A release, opened: what it says of itself, and a way to read one layer in the house orientation."""

    path: Path
    format: str
    hooks: Hooks
    n_layers: int
    files: tuple[Path, ...]
    """Every file that determines the transcoders."""
    shape: Callable[[int], tuple[int, int]]
    """(d_transcoder, d_model) of a layer, from the file's header."""
    read: Callable[[int], Transcoder]
    """One layer, in the dtype of the file. Memory: that layer."""
    folded: tuple[str, ...] = ()
    """What `read` folds into the biases."""


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file, from its header alone.

    Raises:
        ValueError: the file is missing, truncated or not safetensors.
    """
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read_tensors(path: Path, names: list[str]) -> dict[str, Tensor]:
    """Some tensors of a safetensors file, checked to be finite and of a weight dtype.

    Raises:
        ValueError: names the file, the tensor and what is wrong.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in names}
    for name, tensor in tensors.items():
        check_weights(path, name, tensor)
    return tensors


def check_weights(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse weights of another dtype than the store keeps, or that are not finite."""
    if tensor.dtype not in WEIGHT_DTYPES:
        raise ValueError(f"{path}: {name} is {tensor.dtype}; expected float32, bfloat16 or float16")
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise ValueError(f"{path}: {name} holds {bad} NaN or infinite values of {tensor.numel()}")


def expect_shape(path: Path, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Refuse a tensor of another shape."""
    if found != expected:
        raise ValueError(f"{path}: {name} has shape {list(found)}, expected {list(expected)}")


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"no file {path}")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: truncated or not a safetensors file ({error})") from None
