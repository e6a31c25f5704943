"""Which tokens an activation came from."""

import numpy as np

from interp.circuitlens.input_patterns import strongest_sources

KINDS = ["head", "token", "head", "feature", "token", "head"]
SOURCE = np.array([0, 1, 2, 3, 4, 4])


def test_tokens_below_the_least_share_are_left_out() -> None:
    score = np.array([5.0, 4.0, 0.9, 100.0, -3.0, 2.0])  # features do not count, and what a token brings is summed up
    assert strongest_sources(KINDS, SOURCE, score, min_share=0.1) == [0, 1]
    assert strongest_sources(KINDS, SOURCE, score, min_share=0.05) == [0, 1, 2]
    assert strongest_sources(KINDS, SOURCE, score, min_share=0.0) == [0, 1, 2]  # a token that brings nothing is none
    assert strongest_sources(KINDS, SOURCE, score, min_share=0.0, most=1) == [0]


def test_of_equals_the_later_comes_first_and_of_what_holds_back_there_is_none() -> None:
    assert strongest_sources(["head", "token", "head"], np.array([0, 1, 2]), np.array([1.0, 1.0, 1.0])) == [2, 1, 0]
    assert strongest_sources(["head", "token"], np.array([0, 1]), np.array([-1.0, -2.0])) == []
