"""A device that no machine has: its tensors are computed on the CPU, and code that would fail on a real one fails.

A tensor of the device that meets one of the CPU is an error, as is asking for its NumPy array, and so is float64, which
Apple's devices lack. A test that passes with it has shown that every tensor is where it belongs.
"""

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


class Absent(Tensor):
    """A tensor of the device, with the one of the CPU that stands for it."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Absent":
        made = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls, inner.size(), inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=f"{NAME}:0"
        )
        made.inner = inner
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


def _registered() -> library.Library:
    """What makes tensors of the device, or copies to it, does not always ask a tensor's class."""
    device = library.Library("aten", "IMPL")
    made = (aten.empty.memory_format, aten.empty_strided.default, aten.arange.default, aten.arange.start)
    for func in (*made, aten.arange.start_step, aten.copy_.default, aten._copy_from.default):
        device.impl(func, lambda *args, func=func, **kwargs: _computed(func, args, kwargs), "PrivateUse1")
    return device


_LIBRARY = _registered()
