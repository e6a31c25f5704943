"""Read tensors and plain settings from a file of `torch.save` without running any code in it.

A `.pt` file is a zip archive: `…/data.pkl`, a pickle, and `…/data/KEY`, the bytes of one storage each, unpacked. A
pickle is a program for a small virtual machine. The machine here has only the instructions that tensors and settings
need, and each takes bounded time. The pickle may name the few functions that rebuild tensors. Classes of other packages
become `Inert`, which keeps the state of an object and has no behaviour; anything else that a pickle can name is
refused.
"""

import pickletools
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from storage.foreign import check_path, shown
from storage.formats.zip_archive import open_zip

MAX_PICKLE_BYTES = 200_000
"""Limit for a pickle, which has names and settings; weights are outside it."""

MAX_AXES = 8

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
}

OWN_PACKAGES = {*sys.stdlib_module_names, "__builtin__", "commands", "copy_reg", "exceptions", "torch"}
"""Packages whose names are never replaced by `Inert`: Python's own, of any version, and PyTorch."""


class Inert:
    """An object of an unavailable class: its state from the pickle."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: object = None


class StoredTensor(NamedTuple):
    """A tensor whose values are still in the file: in which storage, and where in it."""

    dtype: torch.dtype
    key: str
    n: int
    """Index of the first value in the storage."""
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of its values, without the rest of the storage that it is a view of."""
        return prod(self.shape) * self.dtype.itemsize


class TorchZip:
    """A file of `torch.save`. `content` is the saved object, with a `StoredTensor` for each tensor.

    Raises:
        ValueError: the file is truncated or of another kind, or its pickle names something that is refused.
    """

    def __init__(self, path: Path) -> None:
        self.path = check_path(path)
        try:
            with open_zip(path) as archive:
                self._entries = {entry.filename: entry for entry in archive.infolist()}
                self._check_entries(archive.infolist())
                (self._root,) = {name.removesuffix("data.pkl") for name in self._entries if name.endswith("/data.pkl")}
                data = archive.read(f"{self._root}data.pkl")
                byteorder = self._entries.get(f"{self._root}byteorder")
                if byteorder is not None and archive.open(byteorder).read(10) != b"little":
                    raise ValueError("its numbers are not little-endian")
            self.content = _Machine().run(data)
        except Exception as error:  # a broken archive or pickle can raise almost any exception
            raise ValueError(
                f"{path}: refused: {str(error)[:200] or type(error).__name__}; expected a file of torch.save with "
                "tensors and settings only"
            ) from None

    def _check_entries(self, entries: list[zipfile.ZipInfo]) -> None:
        if len(entries) > len(self._entries):
            raise ValueError("a part of the archive occurs twice")
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise ValueError(f"{entry.filename} is compressed")
            if entry.filename.endswith("data.pkl") and entry.file_size > MAX_PICKLE_BYTES:
                raise ValueError(f"{entry.filename} is {entry.file_size} bytes; expected at most {MAX_PICKLE_BYTES}")

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Read a tensor's values.

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
        try:
            with open_zip(self.path) as archive, archive.open(entry) as file:
                data = file.read(n_bytes)
            values = torch.frombuffer(bytearray(data), dtype=stored.dtype)
        except (zipfile.BadZipFile, EOFError, OSError, ValueError, TypeError, RuntimeError) as error:
            raise ValueError(f"{self.path}: unreadable values ({str(error)[:200]})") from None
        tensor = values.as_strided(stored.shape, stored.stride, stored.offset).contiguous()
        return tensor if tensor.numel() == stored.n else tensor.clone()  # frees the rest of the storage


class _Function(NamedTuple):
    """One of the few functions that a pickle may call."""

    call: Callable[..., object]


class _Class(NamedTuple):
    """A class that is not available."""

    name: str


class _Storage(NamedTuple):
    dtype: torch.dtype
    key: str
    n: int


class _Machine:
    """Runs a pickle: a stack of values, marks in it, and a memo of values that are used again.

    Values may contain one another many times over, so nothing here ever traverses, compares, hashes or prints one that
    is not a scalar.
    """

    def __init__(self) -> None:
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def run(self, data: bytes) -> object:
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _LITERALS:
                self.stack.append(argument)
            else:
                step = _STEPS.get(name)
                if step is None:
                    raise ValueError(f"a pickle with {name}, which tensors and settings do not need")
                step(self, argument)
        raise ValueError("a pickle without an end")

    def above_mark(self) -> list[object]:
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def remember(self, _argument: object) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def remember_as(self, number: object) -> None:
        self.memo[_index(number)] = self.stack[-1]

    def recall(self, number: object) -> None:
        self.stack.append(self.memo[_index(number)])

    def mark(self, _argument: object) -> None:
        self.marks.append(len(self.stack))

    def tuple_of(self, n: int | None) -> None:
        values = self.above_mark() if n is None else [self.stack.pop() for _ in range(n)][::-1]
        self.stack.append(tuple(values))

    def append(self, values: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise ValueError(f"values appended to {shown(target)}")
        target.extend(values)

    def set_items(self, values: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise ValueError(f"{len(values)} keys and values for {shown(target)}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if key is not None and not isinstance(key, str | int | float):
                raise ValueError(f"a key that is {shown(key)}")
            target[key] = value

    def name(self, module: str, name: str) -> None:
        self.stack.append(_known(module, name))

    def name_from_stack(self, _argument: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a name that is not text")
        self.name(module, name)

    def call(self, _argument: object) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(arguments, tuple):
            raise ValueError("arguments that are not a tuple")
        if isinstance(function, _Function):
            self.stack.append(function.call(*arguments))
        elif isinstance(function, _Class) and not arguments:
            self.stack.append(Inert(function.name))
        else:
            raise ValueError(f"a call of {function.name if isinstance(function, _Class) else shown(function)}")

    def new(self, _argument: object) -> None:
        if not isinstance(self.stack[-2], _Class):
            raise ValueError(f"a new {shown(self.stack[-2])}")
        self.call(None)

    def build(self, _argument: object) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.state = state
        elif not isinstance(target, OrderedDict):  # a module's state has versions attached, which are not needed
            raise ValueError(f"a state for {shown(target)}")

    def storage(self, _argument: object) -> None:
        """A storage is given as ("storage", type, key, device, number of values)."""
        found = self.stack.pop()
        if not isinstance(found, tuple) or len(found) != 5:
            raise ValueError("a storage that is not named as torch.save names it")
        kind, dtype, key, _, n = found
        named = isinstance(kind, str) and kind == "storage" and isinstance(dtype, torch.dtype)
        if not named or not isinstance(key, str) or not _is_size(n):
            raise ValueError("a storage that is not named as torch.save names it")
        self.stack.append(_Storage(dtype, key, n))


_CONSTANTS: dict[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}

_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip

_STEPS: dict[str, Callable[[_Machine, object], None]] = {
    "PROTO": lambda *_: None,
    "FRAME": lambda *_: None,
    "MARK": _Machine.mark,
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "TUPLE": lambda machine, _: machine.tuple_of(None),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.above_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.above_mark()),
    "MEMOIZE": _Machine.remember,
    "BINPUT": _Machine.remember_as,
    "LONG_BINPUT": _Machine.remember_as,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "GLOBAL": lambda machine, names: machine.name(*str(names).split(" ", 1)),
    "STACK_GLOBAL": _Machine.name_from_stack,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.new,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
}


def _known(module: str, name: str) -> object:
    """The meaning of a name: a type of numbers, one of the allowed functions, or a class that is not available."""
    functions: dict[tuple[str, str], Callable[..., object]] = {
        ("collections", "OrderedDict"): lambda: OrderedDict(),
        ("torch._utils", "_rebuild_tensor_v2"): _stored_tensor,
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        ("torch", "device"): lambda *_: "a device",
    }
    if module == "torch" and name in STORAGES:
        return STORAGES[name]
    if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
        return vars(torch)[name]
    if (module, name) in functions:
        return _Function(functions[module, name])
    if module.partition(".")[0] in OWN_PACKAGES:
        raise ValueError(f"it names {module}.{name}, which could run code")
    return _Class(f"{module}.{name}")


def _stored_tensor(storage: object, offset: object, shape: object, stride: object, *_: object) -> StoredTensor:
    sizes, steps = _axes(shape), _axes(stride)
    if not isinstance(storage, _Storage) or not _is_size(offset) or len(sizes) != len(steps):
        raise ValueError("a tensor that is not described as torch.save describes it")
    return StoredTensor(*storage, offset, sizes, steps)


def _axes(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > MAX_AXES:
        raise ValueError(f"a tensor whose axes are not a tuple of at most {MAX_AXES}")
    axes = tuple(axis for axis in value if _is_size(axis))
    if len(axes) != len(value):
        raise ValueError("a tensor that is not described as torch.save describes it")
    return axes


def _is_size(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**48


def _index(value: object) -> int:
    """The argument of an opcode that is an index into the memo."""
    assert isinstance(value, int)
    return value
