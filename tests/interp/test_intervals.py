"""Intervals against other implementations of the same."""

import numpy as np
import pytest
from scipy.stats import binomtest

from interp.intervals import drop_interval, wilson


@pytest.mark.parametrize(("n_found", "n"), [(0, 10), (3, 10), (10, 10), (117, 400)])
def test_wilson_is_scipys(n_found: int, n: int) -> None:
    expected = binomtest(n_found, n).proportion_ci(method="wilson")
    assert wilson(n_found / n, n) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_equal_drops_leave_room_for_others() -> None:
    total, none = drop_interval(np.ones(3)), drop_interval(np.zeros(3))
    assert total is not None
    assert none is not None
    assert total[0] < 0.95 < total[1] == 1
    assert none[0] < 0 < 0.05 < none[1]
