"""Float32 matrix products by the library that is fast on this processor."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

import torch
from llvmlite.binding import get_host_cpu_name

EXACT = 2e-6
"""Relative error up to which products count as computed with float32 factors; with bfloat16 factors it is 3e-3."""

LEAST_WIDTH = 256
"""Width of a model from which the other library is used: below, its preparations take longer than the products.
Attributing the demo (64 dimensions) takes 1.8 times as long with it; SmolLM2-135M (576) takes three fifths
(`benchmarks.attributing`)."""

_lock = Lock()
_within: list[str] = []
"""For each open block, PyTorch's setting before the first of them."""


@contextmanager
def fast_products(d_model: int) -> Iterator[None]:
    """A context in which oneDNN computes this process's float32 products, where it is faster than MKL and as exact, for
    a model of this width.

    On AMD's processors MKL uses half the width of the vectors: 110 instead of 240 GFLOP/s on a core of an EPYC with
    AVX-512. PyTorch uses oneDNN for float32 products only if it may round factors to bfloat16, which oneDNN does on
    processors with matrix units for it (AMX) and on no others. So this is allowed on AMD's processors, after a product
    has been compared with float64; elsewhere nothing changes.

    Not for products of a single row with a large matrix, as in generating one text token by token: oneDNN rearranges
    the matrix first, each time. From eight rows on it is faster all the same.
    """
    if d_model < LEAST_WIDTH or not _can_be_chosen():
        yield
        return
    with _lock:
        _within.append(_within[0] if _within else _precision())
        _set_precision("bf16")
    try:
        yield
    finally:
        with _lock:
            before = _within.pop()
            if not _within:
                _set_precision(before)


@cache
def _can_be_chosen() -> bool:
    if not get_host_cpu_name().startswith("znver") or not torch.backends.mkldnn.is_available():
        return False
    before = _precision()
    _set_precision("bf16")
    try:
        return all(_is_exact(*shape) for shape in ((1, 128, 64), (32, 128, 512), (128, 576, 576), (256, 1536, 128)))
    finally:
        _set_precision(before)


def _is_exact(n_rows: int, n_inner: int, n_columns: int) -> bool:
    generator = torch.Generator().manual_seed(n_inner)
    a, b = torch.randn(n_rows, n_inner, generator=generator), torch.randn(n_inner, n_columns, generator=generator)
    exact = a.double() @ b.double()
    products = (a @ b, torch.bmm(a[None], b[None])[0], torch.addmm(a.new_zeros(n_columns), a, b))
    return all(bool((one.double() - exact).norm() <= EXACT * exact.norm()) for one in products)


def _precision() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision  # pyright: ignore[reportAttributeAccessIssue]


def _set_precision(precision: str) -> None:
    torch.backends.mkldnn.matmul.fp32_precision = precision  # pyright: ignore[reportAttributeAccessIssue]
