"""Which contributors are kept."""

import numpy as np
import pytest
import torch

from interp.circuitlens.contributors import standing_out
from interp.circuitlens.settings import CircuitLensSettings

STRONG = [10.0, 6.0, 0.1, *[0.0] * 97]
"""One target whose activation comes from two sources."""

THIN = [0.011, *[0.01] * 98, 0.001]
"""One to which a hundred sources contribute, all of them less than 2%."""


@pytest.mark.parametrize(
    ("share_of_strongest", "kept"), [(1.0, {0: [0, 1], 1: [0]}), (0.2, {0: [0, 1], 1: list(range(16))})]
)
def test_weak_ones_are_kept_where_none_is_strong(share_of_strongest: float, kept: dict[int, list[int]]) -> None:
    scores = torch.tensor([STRONG, THIN]).T
    found = standing_out(scores, CircuitLensSettings(share_of_strongest=share_of_strongest))
    assert {target: found.source[found.target == target].tolist() for target in (0, 1)} == kept
    np.testing.assert_allclose(found.share[0], 10 / 16.1)


def test_what_contributes_nothing_is_never_kept() -> None:
    found = standing_out(torch.tensor([[-1.0], [0.0], [-2.0]]), CircuitLensSettings())
    assert len(found.source) == 0


@pytest.mark.parametrize("at", [0, 700, 1023, 1024, 1100])
def test_the_strongest_is_found_among_any_number_of_sources(at: int) -> None:
    scores = torch.full((1101, 2), 1e-6)
    scores[at, 1], scores[5, 0] = 1.0, 2.0
    settings = CircuitLensSettings(min_share=1.0, share_of_strongest=0.5)
    found = standing_out(scores, settings)
    assert (found.source.tolist(), found.target.tolist()) == ([5, at], [0, 1])
