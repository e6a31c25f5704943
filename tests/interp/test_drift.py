"""Features found again: permuted ones, a changed one, a new one; against the obvious slow matching."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp import drift
from interp.drift import Directions, DriftSettings, correlation, match
from interp.sparse import FeatureTokens, feature_tokens

SETTINGS = DriftSettings()


def directions(n: int, width: int = 32, seed: int = 0) -> Directions:
    generator = torch.Generator().manual_seed(seed)
    return Directions(torch.randn(n, width, generator=generator), torch.randn(n, width, generator=generator))


@pytest.mark.parametrize("block", [3, 1000])
def test_permuted_features_are_found_again(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "ROWS_PER_BLOCK", block)
    a = directions(20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    b = Directions(3 * a.W_enc[order], a.W_dec[order])
    found = match(a, b, SETTINGS)
    assert found.a.tolist() == list(range(20))
    assert order[found.b].tolist() == list(range(20))
    assert found.cosine_enc == pytest.approx(np.ones(20))
    assert found.fates(SETTINGS) == ["kept"] * 20


def test_a_moved_a_new_and_a_lost_feature() -> None:
    a, other = directions(6), directions(6, seed=5)
    enc, dec = a.W_enc.clone(), a.W_dec.clone()
    unit = torch.nn.functional.normalize
    enc[2] = unit(a.W_enc[2], dim=0) + 0.8 * unit(other.W_enc[2], dim=0)
    enc[4], dec[4] = other.W_enc[4], other.W_dec[4]
    enc[5], dec[5] = 0, 0
    found = match(a, Directions(enc, dec), SETTINGS)
    assert found.a.tolist() == found.b.tolist() == [0, 1, 2, 3]
    assert found.fates(SETTINGS) == ["kept", "kept", "moved", "kept"]
    assert 0.7 < found.cosine_enc[2] < 0.9
    assert found.cosine_dec[2] == pytest.approx(1)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), n_a=st.integers(1, 9), n_b=st.integers(1, 9))
def test_it_is_the_greedy_matching_by_likeness(seed: int, n_a: int, n_b: int) -> None:
    a, b = directions(n_a, 3, seed), directions(n_b, 3, seed + 1)
    wanted = DriftSettings(match_cosine=0.2, kept_cosine=0.9)
    likeness = (a.likeness_rows() @ b.likeness_rows().T).numpy()
    pairs = []
    for i, j in sorted(np.ndindex(n_a, n_b), key=lambda at: -likeness[at]):
        if likeness[i, j] >= 0.2 and all(i != p and j != q for p, q in pairs):
            pairs.append((i, j))
    found = match(a, b, wanted)
    assert list(zip(found.a.tolist(), found.b.tolist(), strict=True)) == sorted(pairs)


def test_correlations_are_those_of_the_dense_activations() -> None:
    rng = np.random.default_rng(0)
    dense = [np.where(rng.random((5, 40)) < 0.3, rng.random((5, 40)), 0).astype(np.float32) for _ in range(2)]
    dense[1][3] = dense[0][1] * 2
    dense[0][4] = 0
    a, b = (feature_tokens(*np.nonzero(x), x[np.nonzero(x)], 5) for x in dense)
    pairs = drift.Matches(np.array([1, 2, 4]), np.array([3, 0, 4]), np.ones(3), np.ones(3))
    found = correlation(a, b, pairs, 40)
    assert found[0] == pytest.approx(1)
    assert found[1] == pytest.approx(np.corrcoef(dense[0][2], dense[1][0])[0, 1], abs=1e-6)
    assert np.isnan(found[2])


def test_nothing_matched_correlates_with_nothing() -> None:
    none = FeatureTokens(np.zeros(3, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    found = match(directions(2), directions(2, seed=9), SETTINGS)
    assert len(found.a) == 0
    assert len(correlation(none, none, found, 10)) == 0


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(ValueError, match=r"kept_cosine is 0\.5, less than match_cosine"):
        DriftSettings(kept_cosine=0.5)
