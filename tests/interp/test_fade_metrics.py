"""The metrics against scikit-learn and against what can be worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from interp.fade.metrics import (
    Score,
    auroc,
    average_precision,
    balanced_accuracy,
    clarity,
    faithfulness,
    faithfulness_paper,
    purity,
    responsiveness,
    share_in_common,
    simulation,
)
from interp.intervals import auroc_interval

LEVELS = st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.5, 7.0]), min_size=1, max_size=30).map(np.array)


@given(LEVELS, LEVELS)
@settings(deadline=None)
def test_areas_and_precisions_are_scikit_learns(positive: np.ndarray, negative: np.ndarray) -> None:
    scores, labels = np.concatenate([positive, negative]), np.arange(len(positive) + len(negative)) < len(positive)
    assert auroc(positive, negative) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


@given(LEVELS, LEVELS)
@settings(deadline=None)
def test_every_figure_lies_in_its_interval(present: np.ndarray, absent: np.ndarray) -> None:
    activations = np.concatenate([present, absent])
    ratings = np.array([2] * len(present) + [0] * len(absent))
    true = activations > 0.4
    found = [
        clarity(present, absent),
        responsiveness(activations, ratings),
        purity(activations, ratings),
        balanced_accuracy(ratings == 2, true),
        simulation([ratings.astype(np.float32)], [true]),
    ]
    for score in found:
        if score.reason is None:
            assert score.value is not None
            assert score.low is not None
            assert score.high is not None
            assert 0 <= score.low <= score.value + 1e-9
            assert score.value - 1e-9 <= score.high <= 1
            assert math.isfinite(score.low + score.high)


def test_intervals_hold_what_they_promise() -> None:
    random, n_held, area = np.random.default_rng(0), 0, 0.7602
    for _ in range(300):
        low, high = auroc_interval(auroc(random.normal(1, 1, 20), random.normal(0, 1, 40)), 20, 40)
        n_held += low <= area <= high
    assert 0.91 <= n_held / 300 <= 0.99


def test_a_perfect_area_of_few_is_less_sure_than_of_many() -> None:
    assert auroc_interval(1.0, 5, 5)[0] < auroc_interval(1.0, 50, 50)[0] < 1


def test_what_silences_a_feature_is_clear_too() -> None:
    quiet, loud = np.zeros(10), np.ones(10)
    assert clarity(quiet, loud).value == clarity(loud, quiet).value == 1
    ratings = np.array([2] * 10 + [0] * 10)
    assert purity(np.concatenate([quiet, loud]), ratings).value == 1


def test_where_there_is_no_value_there_is_a_reason() -> None:
    ones, nothing = np.ones(3), np.zeros(0)
    assert clarity(nothing, ones).reason == "no_synthetic_texts"
    assert responsiveness(ones, np.array([0, 0, 1])).reason == "nothing_rated_2"
    assert purity(ones, np.array([2, 2, 1])).reason == "nothing_rated_0"
    assert faithfulness({0.0: np.array([2, 2]), 1.0: np.array([2, 0])}).reason == "always_present"
    assert faithfulness({0.0: np.array([-1, -1]), 1.0: np.array([2, 0])}).reason == "no_ratings"
    assert balanced_accuracy(np.ones(2, bool), np.zeros(2, bool)).reason == "never_active"
    assert simulation([], []).reason == "no_natural_texts"


def test_faithfulness_by_hand() -> None:
    ratings = {0.0: np.array([2, 0, 0, 0]), -1.0: np.array([0, 0, 0, 0]), 10.0: np.array([2, 2, 2, 1])}
    score = faithfulness_paper(ratings)
    assert score.value == pytest.approx((3 / 4 - 1 / 4) / (1 - 1 / 4))
    assert (score.n, score.low, score.high) == (4, None, None)
    assert faithfulness_paper({0.0: np.array([1, 2]), 5.0: np.array([0, 0])}).value == 0
    assert faithfulness(ratings).value == pytest.approx(score.value), "whatever the halves, 10 is the best in both"
    assert faithfulness({0.0: np.array([1, 2] * 4), 5.0: np.array([0, 0] * 4)}).value == -1
    with pytest.raises(ValueError, match="factor 0"):
        faithfulness({1.0: np.array([2])})


def test_balanced_accuracy_is_scikit_learns() -> None:
    random = np.random.default_rng(1)
    said, true = random.random(50) < 0.4, random.random(50) < 0.3
    assert balanced_accuracy(said, true).value == pytest.approx(balanced_accuracy_score(true, said))


def test_tokens_that_cluster_in_texts_widen_the_interval() -> None:
    """Whole texts that are right or wrong tell less than as many tokens on their own."""
    random = np.random.default_rng(0)
    active = [np.arange(20) < 10 for _ in range(10)]
    together = [np.where(text, random.normal() + 1, 0.0) for text in active]
    apart = [np.where(text, random.normal(size=20) + 1, 0.0) for text in active]
    wide, narrow = simulation(together, active), simulation(apart, active)
    assert wide.high is not None
    assert wide.low is not None
    assert narrow.high is not None
    assert narrow.low is not None
    assert wide.high - wide.low > narrow.high - narrow.low


def test_the_share_that_two_descriptions_name_has_an_interval_or_a_reason() -> None:
    score = share_in_common({"a", "b", "c"}, {"b", "c", "d"})
    assert score.value == 0.5
    assert score.n == 4
    assert score.low is not None
    assert score.high is not None
    assert score.low < 0.5 < score.high
    assert share_in_common(set(), {"a"}) == Score.none("nothing_in_a_half", 1)


def test_simulation_counts_every_token() -> None:
    predicted, active = [np.array([1.0, 0.0, 0.0]), np.zeros(2)], [np.array([True, False, False]), np.zeros(2, bool)]
    assert simulation(predicted, active).n == 5
    assert simulation(predicted[1:], active[1:]).n == 2


def test_the_interval_of_faithfulness_closes_in_on_its_value() -> None:
    random = np.random.default_rng(1)
    shows = {factor: random.random(20_000) < share for factor, share in ((0.0, 0.2), (10.0, 0.6))}
    score = faithfulness({factor: np.where(shown, 2, 0) for factor, shown in shows.items()})
    assert score.value is not None
    assert score.low is not None
    assert score.high is not None
    assert score.value == pytest.approx((0.6 - 0.2) / (1 - 0.2), abs=0.02)
    assert score.value - 0.03 < score.low < score.value < score.high < score.value + 0.03
