"""Inheritance of tokens against a dictionary-based rendering of its definition."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.sparse import FeatureTokens, feature_tokens, ranks
from interp.weightlens.propagation import Edges, inherit

N = 6


def tokens_of(pairs: dict[tuple[int, int], float]) -> FeatureTokens:
    feature, token = np.array(list(pairs), np.int64).reshape(-1, 2).T
    return feature_tokens(feature, token, np.array(list(pairs.values()), np.float32), N)


pairs = st.dictionaries(
    st.tuples(st.integers(0, N - 1), st.integers(0, 9)), st.sampled_from([0.5, 1.0, 2.0]), max_size=25
)
edges = st.dictionaries(
    st.tuples(st.integers(0, N - 1), st.integers(0, 2), st.integers(0, N - 1)),
    st.sampled_from([0.25, 1.0, 3.0]),
    max_size=15,
)


@settings(max_examples=150, deadline=None)
@given(edges=edges, upstream=st.tuples(pairs, pairs, pairs), alone=pairs, direct=pairs)
def test_inherits_what_validates_and_credits_the_strongest_edge(
    edges: dict, upstream: tuple[dict, dict, dict], alone: dict, direct: dict
) -> None:
    expected: dict[tuple[int, int], tuple[float, int, int]] = {}
    for (target, layer, feature), weight in edges.items():
        for source, token in upstream[layer]:
            if source == feature and (target, token) in alone and (target, token) not in direct:
                offer = (-weight, layer, feature)
                expected[target, token] = min(offer, expected.get((target, token), offer))
    columns = np.array([key for key in edges], np.int64).reshape(-1, 3).T
    found = inherit(
        Edges(columns[0], columns[1], columns[2], np.array(list(edges.values()), np.float32)),
        lambda layer: tokens_of(upstream[layer]),
        tokens_of(alone),
        tokens_of(direct),
    )
    got = {
        (t, k): (-w, at, f)
        for t, k, w, at, f in zip(
            found.target.tolist(), found.token.tolist(), found.weight.tolist(),
            found.source_layer.tolist(), found.source_feature.tolist(), strict=True,
        )
    }  # fmt: skip
    assert got == expected
    assert len(found.target) == len(got)
    for t, k, a in zip(found.target.tolist(), found.token.tolist(), found.activation.tolist(), strict=True):
        assert a == alone[t, k]


def test_look_up_finds_values_and_gives_zero_elsewhere() -> None:
    tokens = tokens_of({(0, 4): 1.0, (2, 4): 2.0, (2, 9): 0.5})
    found = tokens.look_up(np.array([0, 2, 2, 1, 5]), np.array([4, 9, 5, 4, 4]))
    assert found.tolist() == [1.0, 0.5, 0.0, 0.0, 0.0]


def test_ranks_restart_with_every_run() -> None:
    assert ranks(np.array([3, 3, 5, 5, 5, 9])).tolist() == [0, 1, 0, 1, 2, 0]
    assert ranks(np.array([], np.int64)).tolist() == []
