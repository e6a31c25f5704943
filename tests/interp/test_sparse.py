"""Sparse activations by feature: where each feature begins, those without any included."""

import numpy as np

from interp.sparse import feature_tokens


def test_triples_are_sorted_by_feature_and_every_feature_has_a_place() -> None:
    feature, token, value = np.array([3, 0, 3]), np.array([9, 4, 2]), np.array([1.0, 2.0, 3.0], np.float32)
    found = feature_tokens(feature, token, value, n_features=6)
    assert found.n_features == 6
    assert found.indptr.tolist() == [0, 1, 1, 1, 3, 3, 3]
    assert found.token.tolist() == [4, 2, 9]
    assert found.value.tolist() == [2, 3, 1]
