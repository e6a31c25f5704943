"""Samples with different causes come apart, and a cluster says whether it holds."""

import numpy as np
import pytest

from interp.circuitlens.clusters import by_size, clustered
from interp.circuitlens.contributors import Contributors
from interp.circuitlens.cuts import LINK, View, best_cut, cut_apart, views_of
from interp.circuitlens.kinds import FEATURE, HEAD, KINDS, TOKEN
from interp.circuitlens.resampling import cluster_stability
from interp.circuitlens.settings import CircuitLensSettings
from interp.circuitlens.token_profiles import TokenProfiles, probes_of, token_profiles
from interp.descriptions.evidence import JOINED, described

SETTINGS = CircuitLensSettings()
AT = 9


def contributors(samples: list[list[tuple[str, int, int, int]]]) -> Contributors:
    """Of each sample, (kind, layer, unit, distance back) with equal scores."""
    rows = [
        (sample, KINDS.index(kind), layer, unit, AT - back, 1.0, 1 / len(found))
        for sample, found in enumerate(samples)
        for kind, layer, unit, back in found
    ]
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Contributors(*columns)


def labels_of(samples: list[list[tuple[str, int, int, int]]], settings: CircuitLensSettings = SETTINGS) -> list[int]:
    return clustered(contributors(samples), np.full(len(samples), AT), settings, [0]).labels.tolist()


def noisy(cause: int, n: int, seed: int) -> list[list[tuple[str, int, int, int]]]:
    """Samples with one cause of three features, of which each shows two, and what is only once there."""
    random = np.random.default_rng(seed)
    found = []
    for at in range(n):
        own = random.permutation(3)[:2]
        found.append([(FEATURE, 0, int(10 * cause + u), 0) for u in own] + [(TOKEN, -1, 1000 * seed + at, 0)])
    return found


def test_two_sets_of_features_come_apart_and_one_stays_one() -> None:
    assert labels_of(noisy(1, 12, 1) + noisy(2, 8, 2)) == [0] * 12 + [1] * 8
    assert labels_of(noisy(1, 12, 1) + noisy(1, 12, 2)) == [0] * 24


def test_three_causes_are_three_clusters() -> None:
    assert labels_of(noisy(1, 10, 1) + noisy(2, 9, 2) + noisy(3, 8, 3)) == [0] * 10 + [1] * 9 + [2] * 8


def test_heads_part_what_the_same_sources_feed() -> None:
    same = [(FEATURE, 0, 3, 1), (TOKEN, -1, 7, 1)]
    assert labels_of([[*same, (HEAD, 0, 0, 1)]] * 6 + [[*same, (HEAD, 0, 1, 1)]] * 6) == [0] * 6 + [1] * 6
    assert labels_of([[*same, (HEAD, 0, 0, 2)]] * 6 + [[*same, (HEAD, 0, 0, 4)]] * 6) == [0] * 12


def test_samples_that_have_nothing_in_common_are_one_cluster() -> None:
    assert labels_of([[(TOKEN, -1, at, 0)] for at in range(12)]) == [0] * 12


def different_tokens(n: int) -> tuple[Contributors, TokenProfiles]:
    """Samples with a token each, of two kinds in turn, and profiles by features that they point at: 0 (the explained
    one) at all tokens, 1 at the first kind, 2 at the second."""
    samples = contributors([[(TOKEN, -1, at, 0)] for at in range(n)])
    embedding = np.eye(3, dtype=np.float32)[1 + np.arange(n) % 2] + np.eye(3, dtype=np.float32)[0] * 2
    vocabulary = np.concatenate([embedding, np.zeros((9 * n, 3), np.float32)])
    directions = np.eye(3, dtype=np.float32)
    return samples, token_profiles(np.arange(n), embedding, probes_of(np.arange(3), directions, vocabulary))


def test_different_tokens_of_a_kind_are_alike_without_upstream_features() -> None:
    samples, profiles = different_tokens(12)
    position = np.full(12, AT)
    assert clustered(samples, position, SETTINGS, [0], profiles.without([0])).labels.tolist() == [0, 1] * 6
    assert clustered(samples, position, SETTINGS, [0]).labels.tolist() == [0] * 12
    fed = Contributors(
        *(np.concatenate(pair) for pair in zip(samples, contributors([[(FEATURE, 0, 3, 1)]]), strict=True))
    )
    assert clustered(fed, position, SETTINGS, [0], profiles.without([0])).labels.tolist() == [0] * 12


def test_a_profile_is_of_features_that_a_token_points_at_more_than_others() -> None:
    _, profiles = different_tokens(4)
    assert profiles.vector.shape == (4, 3)
    assert (profiles.vector[0, [0, 1]] > 0).all()
    assert profiles.vector[0, 2] == 0
    assert np.linalg.norm(profiles.vector, axis=1) == pytest.approx(1)
    without = profiles.without([0])
    assert without.feature.tolist() == [1, 2]
    assert without.vector == pytest.approx(np.eye(2)[[0, 1, 0, 1]])


def test_samples_without_sources_are_alike() -> None:
    nothing = Contributors(*([np.zeros(0, np.int64)] * 5 + [np.zeros(0)] * 2))
    found = clustered(nothing, np.full(6, AT), SETTINGS, [0])
    assert found.labels.tolist() == [0] * 6
    assert [one.stability for one in found.clusters] == [1.0]


def test_no_part_is_smaller_than_allowed() -> None:
    similarity = np.kron(np.eye(2), np.ones((5, 5)))
    assert sorted(best_cut(similarity, 2).side.tolist()) == [False] * 5 + [True] * 5
    uneven = np.zeros((10, 10))
    uneven[:2, :2] = uneven[2:, 2:] = 1
    assert sum(best_cut(uneven, 4).side) in (4, 6)
    assert len(set(cut_apart([View(uneven, 0.25)], 4).tolist())) == 1
    assert by_size(cut_apart([View(uneven, 0.25)], 2)).tolist() == [1, 1, *[0] * 8]


def test_a_cluster_that_resampling_undoes_is_unstable() -> None:
    labels = np.repeat([0, 1, -1], [10, 10, 2])
    kept = cluster_stability(labels, lambda some: labels[some], 5, [0])
    assert kept == {0: 1.0, 1: 1.0}
    merged = cluster_stability(labels, lambda some: np.where(labels[some] < 0, -1, 0), 5, [0])
    assert 0.3 < merged[0] < 0.6
    random = np.random.default_rng(0)
    shuffled = cluster_stability(labels, lambda some: random.integers(0, 5, len(some)), 5, [0])
    assert max(shuffled.values()) < 0.3


@pytest.mark.parametrize("clustering", ["ncut", "dbscan"])
def test_equal_seeds_give_equal_stability(clustering: str) -> None:
    settings = CircuitLensSettings(clustering=clustering)  # pyright: ignore[reportArgumentType]
    samples = contributors(noisy(1, 9, 1) + noisy(2, 6, 2))
    first, second = (clustered(samples, np.full(15, AT), settings, [3, 4]).clusters for _ in range(2))
    assert first == second


def test_clusters_that_do_not_hold_are_described_together_however_small() -> None:
    assert described({0: 10, JOINED: 4, -1: 6}, 8) == [0, JOINED]
    assert described({0: 3, JOINED: 4, -1: 9}, 8) == [-1, JOINED, 0]


def test_similarities_are_cosines_of_the_roots_of_scores() -> None:
    found = contributors([[(FEATURE, 0, 1, 0), (FEATURE, 0, 2, 0)], [(FEATURE, 0, 1, 0), (FEATURE, 0, 3, 0)]])
    found = found._replace(score=np.array([9.0, 1.0, 4.0, 1.0]))
    by_source, _ = views_of(found, np.array([AT, AT]), SETTINGS)
    assert by_source.similarity[0, 1] == pytest.approx(3 * 2 / np.sqrt(10 * 5), abs=LINK)
