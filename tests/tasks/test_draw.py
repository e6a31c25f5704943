"""Which features are drawn: those that most methods describe, or a random sample of the whole model."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.describe.draw import Draw

FEATURES = list(range(100, 160))
N_METHODS = [at % 3 for at in range(60)]


def test_those_that_most_methods_describe_come_first() -> None:
    drawn = Draw(25, None, tuple(range(4))).of_layer(FEATURES, N_METHODS, 0, 7)
    assert {(feature - 100) % 3 for feature in drawn[:20]} == {2}
    assert {(feature - 100) % 3 for feature in drawn[20:]} == {1}
    assert Draw(10, None, tuple(range(4))).of_layer(FEATURES, N_METHODS, 0, 7) == drawn[:10]


@given(sample=st.integers(1, 200), n_layers=st.integers(1, 9), seed=st.integers(0, 5))
def test_a_sample_has_as_many_features_as_asked_for(sample: int, n_layers: int, seed: int) -> None:
    drawn = [
        Draw(None, sample, tuple(range(n_layers))).of_layer(FEATURES, N_METHODS, layer, seed)
        for layer in range(n_layers)
    ]
    assert sum(map(len, drawn)) == min(sample, sum(min(60, len(one)) for one in drawn))
    assert max(map(len, drawn)) - min(map(len, drawn)) <= 1
    assert all(len(set(one)) == len(one) for one in drawn)


def test_in_a_sample_every_feature_has_the_same_chance_whatever_describes_it() -> None:
    found = Counter(
        (feature - 100) % 3
        for seed in range(400)
        for feature in Draw(None, 6, (0,)).of_layer(FEATURES, N_METHODS, 0, seed)
    )
    assert np.ptp(list(found.values())) < 4 * np.sqrt(2400 * 2 / 9) * 1.5


def test_all_are_drawn_where_nothing_is_said() -> None:
    assert Draw(None, None, (0, 1)).is_all
    assert sorted(Draw(None, None, (0, 1)).of_layer(FEATURES, N_METHODS, 1, 0)) == FEATURES


def test_only_some_features() -> None:
    only = {1: (105, 103, 99), 2: ()}
    assert sorted(Draw(None, None, (0, 1, 2), only).of_layer(FEATURES, N_METHODS, 1, 0)) == [103, 105]
    assert Draw(1, None, (0, 1, 2), only).of_layer(FEATURES, N_METHODS, 2, 0) == []
    assert Draw(None, 7, (0, 1, 2), only).of_layer(FEATURES, N_METHODS, 0, 0) == []
    assert not Draw(None, None, (0, 1, 2), only).is_all
