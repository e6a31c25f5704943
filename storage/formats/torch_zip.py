"""Read tensors and plain settings from what `torch.save` wrote, running nothing that the file names.

A `.pt` file is a zip archive: `…/data.pkl`, a pickle, and `…/data/KEY`, the bytes of one storage each, unpacked. The
pickle may name the few functions that rebuild tensors. Classes of other packages become `Inert`, which keeps the state
of an object and does nothing; anything else that a pickle can name is refused.
"""

import io
import pickle
import pickletools
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

MAX_PICKLE_BYTES = 10_000_000
"""A pickle holds names and settings; weights lie outside it."""

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
}

OWN_PACKAGES = {*sys.stdlib_module_names, "__builtin__", "commands", "copy_reg", "exceptions", "torch"}
"""Packages whose names are never taken for settings: Python's own, of any version, and PyTorch."""


class Inert:
    """An object of a class that is not there: its state, as the pickle has it."""

    state: Any = None

    def __new__(cls, *arguments: object) -> "Inert":
        if arguments:
            raise ValueError(f"a call of {cls.__module__}.{cls.__qualname__}")
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        self.state = state


class StoredTensor(NamedTuple):
    """Where a tensor's values lie."""

    dtype: torch.dtype
    key: str
    n: int
    """Values in its storage."""
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class TorchZip:
    """A file of `torch.save`: `content` is what was saved, with a `StoredTensor` for each tensor.

    Raises:
        ValueError: the file is truncated or something else, or its pickle names what it should not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self._entries = {entry.filename: entry for entry in archive.infolist()}
                self._check_entries(archive.infolist())
                (self._root,) = {name.removesuffix("data.pkl") for name in self._entries if name.endswith("/data.pkl")}
                data = archive.read(f"{self._root}data.pkl")
                byteorder = self._entries.get(f"{self._root}byteorder")
                if byteorder is not None and archive.read(byteorder) != b"little":
                    raise ValueError("its numbers are not little-endian")
            self.content = _load(data)
        except Exception as error:  # a pickle can make its reader raise anything
            raise ValueError(
                f"{path}: refused: {str(error)[:200] or type(error).__name__}; expected a file of torch.save with "
                "tensors and settings only"
            ) from None

    def _check_entries(self, entries: list[zipfile.ZipInfo]) -> None:
        if len(entries) > len(self._entries):
            raise ValueError("a part of the archive is there twice")
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise ValueError(f"{entry.filename} is compressed")
            if entry.filename.endswith("data.pkl") and entry.file_size > MAX_PICKLE_BYTES:
                raise ValueError(f"{entry.filename} is {entry.file_size} bytes")

    def tensor(self, stored: StoredTensor) -> Tensor:
        """A tensor's values.

        Raises:
            ValueError: its storage is missing, or shorter than the tensor needs.
        """
        entry = self._entries.get(f"{self._root}data/{stored.key}")
        n_bytes = stored.n * stored.dtype.itemsize
        last = stored.offset + sum((n - 1) * step for n, step in zip(stored.shape, stored.stride, strict=True))
        fits = min(stored.offset, *stored.stride, *stored.shape, 0) >= 0 and last < stored.n
        if entry is None or entry.file_size != n_bytes or not fits or not 0 < prod(stored.shape) <= stored.n:
            size = "no bytes" if entry is None else f"{entry.file_size} bytes"
            raise ValueError(f"{self.path}: {size} for a tensor of shape {stored.shape} in a storage of {n_bytes}")
        with zipfile.ZipFile(self.path) as archive:
            try:
                values = torch.frombuffer(bytearray(archive.read(entry)), dtype=stored.dtype)
            except (zipfile.BadZipFile, EOFError, OSError, ValueError, TypeError, RuntimeError) as error:
                raise ValueError(f"{self.path}: unreadable values ({str(error)[:200]})") from None
        return values.as_strided(stored.shape, stored.stride, stored.offset).contiguous()


def _load(data: bytes) -> Any:
    for opcode, argument, _ in pickletools.genops(data):
        # A pickle numbers what it remembers; a huge number would only make its reader take memory for it.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(data):
            raise ValueError(f"a pickle of {len(data)} bytes that remembers {argument} objects")
    return _Unpickler(io.BytesIO(data)).load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _known(module, name)
        if found is not None:
            return found
        if module.partition(".")[0] in OWN_PACKAGES:
            raise ValueError(f"it names {module}.{name}, which could run code")
        return type(name.replace(".", "_"), (Inert,), {"__module__": module})

    def persistent_load(self, pid: Any) -> tuple[torch.dtype, str, int]:
        """A storage, named as ("storage", type, key, device, number of values)."""
        kind, dtype, key, _, n = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise ValueError("a storage that is not named as torch.save names it")
        return dtype, str(key), int(n)


def _known(module: str, name: str) -> Any:
    # New functions each time: a pickle can set attributes of what it is given.
    functions: dict[tuple[str, str], Callable[..., Any]] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): lambda *found: _stored_tensor(*found),
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        ("torch", "device"): lambda *_: "a device",
    }
    if module == "torch" and name in STORAGES:
        return STORAGES[name]
    if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
        return vars(torch)[name]
    return functions.get((module, name))


def _stored_tensor(storage: Any, offset: int, shape: Any, stride: Any, *_: object) -> StoredTensor:
    dtype, key, n = storage
    if len(shape) != len(stride):
        raise ValueError(f"a tensor of {len(shape)} axes with {len(stride)} strides")
    return StoredTensor(dtype, str(key), int(n), int(offset), tuple(map(int, shape)), tuple(map(int, stride)))
