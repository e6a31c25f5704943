"""Products stay those of float32, whichever library does them, and all is as before afterwards."""

from collections.abc import Iterator

import pytest
import torch

from interp import products
from interp.products import LEAST_WIDTH, fast_products


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    asked = products._can_be_chosen
    asked.cache_clear()
    yield
    asked.cache_clear()


def test_products_are_as_exact_within_and_all_is_as_before_after() -> None:
    before, (a, b) = products._precision(), (torch.randn(200, 300), torch.randn(300, 100))
    exact = a.double() @ b.double()
    with fast_products(LEAST_WIDTH):
        with fast_products(LEAST_WIDTH):
            inner = a @ b
        outer, within = a @ b, products._precision()
    assert all((found - exact).norm() < products.EXACT * exact.norm() for found in (inner, outer))
    assert within == ("bf16" if products._can_be_chosen() else before)
    assert products._precision() == before


def test_a_library_that_rounds_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "get_host_cpu_name", lambda: "znver4")
    before, exact = products._precision(), torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda c, a, b: exact(c, a.bfloat16().float(), b))
    with fast_products(LEAST_WIDTH):
        assert products._precision() == before


def test_other_processors_keep_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "get_host_cpu_name", lambda: "sapphirerapids")
    before = products._precision()
    with fast_products(LEAST_WIDTH):
        assert products._precision() == before


def test_narrow_models_keep_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_can_be_chosen", lambda: True)
    before = products._precision()
    with fast_products(LEAST_WIDTH - 1):
        assert products._precision() == before
    with fast_products(LEAST_WIDTH):
        assert products._precision() == "bf16"
    assert products._precision() == before
