"""Intervals against other implementations of the same."""

import pytest
from scipy.stats import binomtest

from interp.intervals import wilson


@pytest.mark.parametrize(("n_found", "n"), [(0, 10), (3, 10), (10, 10), (117, 400)])
def test_wilson_is_scipys(n_found: int, n: int) -> None:
    expected = binomtest(n_found, n).proportion_ci(method="wilson")
    assert wilson(n_found / n, n) == pytest.approx((expected.low, expected.high), abs=1e-4)
