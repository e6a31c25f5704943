"""A device that no machine has: its tensors are computed on the CPU, and code that would fail on a real one fails.

A tensor of the device that meets one of the CPU is an error, as is asking for its NumPy array, and so is float64, which
Apple's devices lack. A test that passes with it has shown that every tensor is where it belongs. With `LateCopies` in
place of what `interp.transfers` does, it has shown as well that nothing is read before it is copied, and nothing
written over while it is in use.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, library
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "absent"
_setup_privateuseone_for_python_backend(NAME)  # PyTorch's own name for a device beyond its own
aten = torch.ops.aten
MAY_MIX = (aten._to_copy.default, aten.copy_.default)
NO_TENSOR = (aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default)


_MADE: dict[int, "weakref.ref[Absent]"] = {}


class Absent(Tensor):
    """A tensor of the device, with the one of the CPU that stands for it."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Absent":
        made = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls, inner.size(), inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=f"{NAME}:0"
        )
        made.inner = inner
        _MADE[id(made)] = weakref.ref(made)
        return made

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
    there = any(isinstance(one, Absent) for one in tensors)
    if there and func not in MAY_MIX:
        for one in tensors:
            if not isinstance(one, Absent) and one.ndim:
                raise RuntimeError(f"{func}: tensors of {NAME} and of the CPU, {tuple(one.shape)}")
    asked = kwargs.get("device")
    if asked is not None:
        there, kwargs = torch.device(asked).type == NAME, {**kwargs, "device": "cpu"}
    if func is aten._scaled_dot_product_attention_math_for_mps.default:
        func = aten._scaled_dot_product_attention_math.default
    if func is aten.histc.default and not args[0].is_floating_point():  # GPUs count integers, the CPU does not
        return Absent(torch.histc(args[0].inner.float(), *args[1:], **kwargs).to(args[0].dtype))
    found = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    written = [
        args[at] if at < len(args) else kwargs.get(one.name)
        for at, one in enumerate(func._schema.arguments)
        if one.alias_info is not None and one.alias_info.is_write
    ]
    if written and isinstance(found, Tensor):
        return written[0]
    if not there or func in NO_TENSOR:
        return found
    return tree_map(_outer, found)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, Absent) else value


def _outer(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.dtype == torch.float64:
        raise TypeError(f"{NAME} has no float64")
    return Absent(value)


def bytes_there() -> int:
    """Bytes of memory that the tensors of the device take now."""
    for key in [key for key, made in list(_MADE.items()) if made() is None]:
        del _MADE[key]
    pieces = [made.inner.untyped_storage() for ref in _MADE.values() if (made := ref()) is not None]
    return sum({piece.data_ptr(): piece.nbytes() for piece in pieces}.values())


class LateCopies:
    """Copies to the device that are made when they have to be finished; until then rubbish is in their place."""

    def __init__(self) -> None:
        self._left: list[tuple[Tensor, Tensor]] = []

    def after_computing(self) -> None:
        """What the device was asked for is computed at once."""

    def begin(self, copy: Callable[[], Any]) -> Any:
        made = copy()
        for one in tree_flatten(made)[0]:
            if isinstance(one, Absent):
                self._left.append((one.inner, one.inner.clone()))
                one.inner.fill_(float("nan") if one.is_floating_point() else torch.iinfo(one.dtype).max)
        return made

    def finish(self, *_: Tensor) -> None:
        for inner, value in self._left:
            inner.copy_(value)
        self._left.clear()


def _registered() -> library.Library:
    """What makes tensors of the device, or copies to it, does not always ask a tensor's class."""
    device = library.Library("aten", "IMPL")
    made = (aten.empty.memory_format, aten.empty_strided.default, aten.arange.default, aten.arange.start)
    whole = (aten.linear.default,)  # its parts change a tensor's shape in place, of which a wrapper learns nothing
    for func in (*made, *whole, aten.arange.start_step, aten.copy_.default, aten._copy_from.default):
        device.impl(func, lambda *args, func=func, **kwargs: _computed(func, args, kwargs), "PrivateUse1")
    return device


_LIBRARY = _registered()
