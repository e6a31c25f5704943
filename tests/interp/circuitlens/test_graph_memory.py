"""Graphs within a budget of memory: which edges are held, and what is said of the rest."""

import numpy as np
import pytest
import torch

from interp.capture import Hooks
from interp.circuitlens import graph as graphs
from interp.circuitlens.edges import FINAL_BYTES, FoundEdges, Limits, influence_of, limits
from interp.circuitlens.graph import Graph, GraphSettings, Step, attribution_steps, finished
from tests.frozen_models import frozen_model, likeliest_ends, random_transcoders


def attributed(settings: GraphSettings) -> tuple[Graph, list[Step]]:
    linear, frozen = frozen_model("llama", Hooks("mlp_in", "mlp_out"), coders := random_transcoders("relu"))
    _, ends = likeliest_ends(linear, frozen, 3)
    told: list[Step] = []
    steps = attribution_steps(linear, frozen, coders.__getitem__, ends, settings, 40_000)
    return finished(steps, told.append), told


def places(graph: Graph) -> list[tuple[int, ...]]:
    return list(zip(graph.layer.tolist(), graph.feature.tolist(), graph.position.tolist(), strict=True))


def test_steps_say_how_far_it_is() -> None:
    graph, told = attributed(GraphSettings(max_features=150))
    assert graph.cut is None
    assert graph.n_features == 150
    assert [one.n_attributed for one in told] == sorted({one.n_attributed for one in told})
    assert told[-1] == Step(150, 150)


def test_the_strongest_edges_are_held_and_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = attributed(GraphSettings(max_features=150))
    monkeypatch.setattr(graphs, "limits", lambda *of: Limits(150, 100_000))
    enough, _ = attributed(GraphSettings(max_features=150))
    assert enough.cut is None
    np.testing.assert_array_equal(enough.edges, whole.edges)
    monkeypatch.setattr(graphs, "limits", lambda *of: Limits(100, 200))
    some, told = attributed(GraphSettings(max_features=150))
    assert some.cut is not None
    assert (some.cut.n_features, some.cut.n_strongest) == (50, 200)
    assert 0.6 < some.cut.held < 0.999
    assert told[-1].n_wanted == 100
    both = sorted(set(places(some)) & set(places(whole)))
    assert len(both) > 80  # chosen by influence, which the weakest edges hardly change
    rows = [[places(one).index(place) for place in both] for one in (some, whole)]
    ours, theirs = (one.edges[np.ix_(row, row)] for one, row in zip((some, whole), rows, strict=True))
    held = ours != 0
    np.testing.assert_allclose(ours[held], theirs[held], rtol=1e-4, atol=1e-5)
    assert 0 < held.sum() < (theirs != 0).sum()
    assert np.abs(theirs[held]).mean() > np.abs(theirs[~held]).mean()


def test_influence_of_held_edges_is_that_of_whole_rows_where_all_are_held() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 20, generator=generator)
    rows[:5] *= torch.arange(20) > torch.arange(5)[:, None] + 2  # of what lies below alone
    rows[5, 19] = 0
    nodes, weight = np.array([0, 1, 2, 3, 4, 19]), np.ones(1, np.float32)
    rows[:, 5:] *= torch.rand(6, 15, generator=generator) > 0.5
    rows[:5, :5] *= torch.arange(5) > torch.arange(5)[:, None]
    rows[:, 19] = 0
    dense, strong = FoundEdges(20, 6, None), FoundEdges(20, 6, 19)
    for edges in (dense, strong):
        edges.add(rows[:2], nodes[:2])
        edges.add(rows[2:], nodes[2:])
    expected = influence_of(rows.numpy(), nodes, weight)
    assert expected[0] > 0
    np.testing.assert_allclose(dense.influence(weight), expected)
    np.testing.assert_allclose(strong.influence(weight), expected, rtol=1e-5)
    assert strong.held(weight) == pytest.approx(1)
    order, kept = np.array([5, 0, 3]), np.array([1, 4, 18])
    np.testing.assert_array_equal(strong.among(order, kept), rows.numpy()[np.ix_(order, kept)])


def test_what_fits() -> None:
    assert limits(7500, 40_000, 832, 10, 8e9) == Limits(7500, None)
    few = limits(7500, 3_000_000, 62_100, 10, 8e9)
    assert few.n_strongest is not None
    assert 1000 < few.n_features < 7500
    rows = few.n_features + 10
    assert 8 * rows * few.n_strongest <= 4e9
    assert FINAL_BYTES * rows * (few.n_features + 62_110) <= 4e9
    assert limits(7500, 3_000_000, 62_100, 10, 80e9).n_features == 7500
    with pytest.raises(ValueError, match=r"--max-memory is 0.1 GB; a graph of 62,100 errors and tokens takes"):
        limits(7500, 3_000_000, 62_100, 10, 1e8)
