"""A graph is put to the test in the model: planted features and edges pass, others of equal activation do not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.capture import Hooks
from interp.circuitlens.frozen import freeze
from interp.circuitlens.graph import Ends, GraphSettings, attribution_steps, finished, prune
from interp.circuitlens.linear import linear_model
from interp.families import family_of
from interp.interventions.at_rest import at_rest
from interp.interventions.effects import correlation, matched
from interp.interventions.readings import LogitReading, Reading, targets_of
from interp.interventions.running import SteerableModel
from interp.interventions.validation import Ablated, ValidationSettings, validated
from interp.transcoder import Transcoder
from tests.frozen_models import TOKENS, likeliest_ends, open_model, random_transcoders
from tests.planted_circuits import D_MODEL, D_VOCAB, HIDDEN, UPSTREAM, planted_coders, planted_gpt2, sequence

HOOKS = Hooks("mlp_in", "mlp_out")
CAUSE = 3
BYSTANDERS = [0, 1, 6, 7]


def planted(bystanders: float = 5.0) -> Ablated:
    """Token 9 fires 0/3, which fires 1/2, which promotes token 11; other features of layer 0 fire and do nothing."""
    model, coders = planted_gpt2(), planted_coders()
    mlp = model.transformer.h[1].mlp
    mlp.c_fc.weight[HIDDEN, 0], mlp.c_fc.bias[0], mlp.c_proj.weight[0, 11] = 1, -0.5, 2
    coders[1].b_enc[UPSTREAM], coders[1].W_dec[UPSTREAM, 11] = -0.5, 2
    for feature in BYSTANDERS:
        coders[0].b_enc[feature] = bystanders
        coders[0].W_dec[feature, 80 + feature] = 0.05
    return ablated(model, coders)


def ablated(model: torch.nn.Module, coders: list[Transcoder]) -> Ablated:
    linear = linear_model(model, family_of("gpt2"), HOOKS)
    rest = at_rest(linear, freeze(linear, coders.__getitem__, sequence(9)), coders.__getitem__)
    direction = torch.eye(D_VOCAB, D_MODEL)[11]
    readings: list[Reading] = [LogitReading(direction, 9)]
    ends = Ends(targets_of(linear, rest.frozen, coders.__getitem__, readings), np.ones(1, np.float32))
    graph = finished(attribution_steps(linear, rest.frozen, coders.__getitem__, ends, GraphSettings(), 10**8))
    return Ablated(
        rest,
        SteerableModel(model, family_of("gpt2"), HOOKS, coders.__getitem__),
        graph,
        prune(graph, 0.999, 0.999),
        readings,
    )


def test_planted_nodes_and_edges_pass_and_random_ones_do_not() -> None:
    of = planted()
    found = validated(of, ValidationSettings(nodes=2, edges=4))
    assert {of.place(one.source) for one in found.nodes} == {(0, CAUSE, 9), (1, UPSTREAM, 9)}
    assert all(one.holds and one.measured < -0.3 for one in found.nodes)
    assert {of.place(one.source)[1] for one in found.random} <= set(BYSTANDERS)
    assert all(abs(one.measured) < 0.05 for one in found.random)
    edges = {(of.place(one.source)[:2], one.target): one for one in found.edges}
    [wired] = [one for (source, target), one in edges.items() if source == (0, CAUSE) and target < of.graph.n_features]
    assert of.place(wired.target or 0) == (1, UPSTREAM, 9)
    assert wired.holds
    assert wired.predicted == pytest.approx(-(wired.weight or 0.0), rel=1e-4)
    assert found.explained == pytest.approx(found.explained_predicted, abs=0.3)
    assert found.explained is not None
    assert found.explained_random is not None
    assert found.explained > 0.5 > 0.1 > abs(found.explained_random)
    assert found.random_effect is not None
    assert found.random_effect < 0.1


def test_a_graph_of_another_model_fails() -> None:
    """The transcoder says that 0/3 writes what 1/2 reads; the model that is run reads another direction there."""
    of = planted()
    coders = planted_coders()
    coders[1].W_enc[UPSTREAM] = 0
    coders[0].W_dec[CAUSE] = 0
    false = of._replace(steerable=replace(of.steerable, transcoder=coders.__getitem__))
    found = validated(false, ValidationSettings(nodes=2, edges=4))
    assert found.edges_held is not None
    assert found.edges_held < 0.5
    assert found.explained == pytest.approx(0, abs=0.05)


def test_predicted_is_measured_where_nothing_is_left_that_is_not_linear() -> None:
    """Of a random model the figures are those of interventions one by one."""
    model, coders = open_model("llama"), random_transcoders("relu")
    linear = linear_model(model, family_of("llama"), HOOKS)
    rest = at_rest(linear, freeze(linear, coders.__getitem__, TOKENS), coders.__getitem__)
    top, ends = likeliest_ends(linear, rest.frozen, 2)
    graph = finished(
        attribution_steps(linear, rest.frozen, coders.__getitem__, ends, GraphSettings(max_features=60), 10**8)
    )
    W_U = linear.family.W_U(model).float()
    readings: list[Reading] = [LogitReading(W_U[token] - W_U.mean(0), len(TOKENS) - 1) for token in top.token.tolist()]
    steerable = SteerableModel(model, family_of("llama"), HOOKS, coders.__getitem__)
    found = validated(Ablated(rest, steerable, graph, prune(graph, 0.9, 0.98), readings), ValidationSettings(5, 10))
    assert len(found.nodes) == len(found.random) == 5
    assert len(found.edges) == 10
    assert found.node_correlation is not None
    assert abs(found.node_correlation) <= 1


def test_matched_features_are_others_of_nearly_equal_activation() -> None:
    activation = torch.cat([torch.linspace(1, 2, 50), torch.linspace(100, 200, 50)])
    chosen = torch.tensor([0, 10, 60])
    found = matched(activation, chosen, seed=0)
    assert len({*found.tolist(), *chosen.tolist()}) == 6
    ratio = activation[found] / activation[chosen]
    assert ((ratio > 0.7) & (ratio < 1.4)).all()
    assert matched(activation, chosen, seed=0).tolist() == found.tolist()
    assert len(matched(torch.ones(4), torch.tensor([0, 1, 2]), seed=0)) == 1


def test_correlation_needs_three_pairs_that_differ() -> None:
    a = torch.tensor([1.0, 2.0, 3.0])
    assert correlation(a, -a) == pytest.approx(-1)
    assert correlation(a[:2], a[:2]) is None
    assert correlation(a, torch.ones(3)) is None
