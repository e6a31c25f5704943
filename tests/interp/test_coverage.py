"""Every kind of interval holds in about 95% of cases, and finds no more than it may where there is nothing.

The simulations are those of `benchmarks/coverage.py`, which repeats them more often.
"""

import pytest

from benchmarks.coverage import KINDS, covered, view_coverage

REPETITIONS = 1500
NOMINAL, CHANCE = 0.05, 0.012
"""Of false positives; and what chance adds to a share of so many repetitions."""


@pytest.mark.parametrize("kind", KINDS)
def test_an_interval_holds_as_often_as_it_says(kind: str) -> None:
    found = covered(kind, REPETITIONS)
    if found.false_positives is None:
        assert 0.93 <= found.coverage <= 0.98
    else:
        assert found.false_positives <= NOMINAL + CHANCE


def test_the_intervals_of_the_views_hold_and_a_judge_that_knows_nothing_is_not_useful() -> None:
    for found in view_coverage(REPETITIONS):
        if found.false_positives is None:
            assert 0.93 <= found.coverage <= 0.98, found
        else:
            assert found.false_positives <= NOMINAL + CHANCE, found
