"""Heads that carry edges: what an edge loses without them, and the induction head of a planted circuit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.capture import Hooks
from interp.circuitlens.attribution import Targets, contributions, feature_targets, logit_targets
from interp.circuitlens.frozen import freeze
from interp.circuitlens.graph import Ends, GraphSettings, attribution_steps, finished, prune
from interp.circuitlens.linear import linear_model
from interp.circuitlens.loadings import Edges, LoadingSettings, carried_edges, head_loadings
from interp.families import family_of
from tests.frozen_models import frozen_model, random_transcoders
from tests.planted_circuits import INDUCTION, PREVIOUS_IS, planted_induction
from tests.tiny_models import DIFFERENT, N_LAYERS

HOOKS = Hooks("mlp_in", "mlp_out")


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in DIFFERENT for kind in ("skip", "cross")])
def test_a_loading_is_what_an_edge_loses_without_the_head(name: str, kind: str) -> None:
    linear, frozen = frozen_model(name, HOOKS, coders := random_transcoders(kind))
    each = [
        feature_targets(linear, frozen, layer, coders[layer], torch.tensor([layer]), torch.tensor([6 + layer]))
        for layer in range(N_LAYERS)
    ]
    targets = Targets(*(torch.cat(columns) for columns in zip(*each, strict=True)))
    source = torch.tensor([0, 3, frozen.n_active + 2, frozen.first_active[1] + 1])
    edges = Edges(source, torch.tensor([N_LAYERS - 1, 1, 0, N_LAYERS - 1]))

    def weights(attention: tuple[object, ...]) -> torch.Tensor:
        (found,) = contributions(replace(linear, attention=attention), frozen, targets, max_bytes=10**9)
        every = torch.cat([found.features, found.tokens])[:, found.target.argsort()]
        return every[edges.source, edges.target]

    whole, n = weights(linear.attention), 0
    found = head_loadings(linear, frozen, targets, edges, n_heads=100)
    for edge, layer, head, loading, through in zip(
        *(column.tolist() for column in (found.edge, found.layer, found.head, found.loading, found.through)),
        strict=True,
    ):
        W_O = linear.attention[layer].W_O.clone()
        W_O[head] = 0
        without = list(linear.attention)
        without[layer] = without[layer]._replace(W_O=W_O)
        lost = whole[edge] - weights(tuple(without))[edge]
        assert loading == pytest.approx(float(lost), rel=1e-3, abs=1e-3 * float(whole.abs().max()))
        assert through
        n += 1
    assert n >= 4
    strength = np.abs(found.loading)
    assert all(strength[at] >= strength[at + 1] for at in range(n - 1) if found.edge[at] == found.edge[at + 1])


def test_an_induction_head_carries_the_edge_and_says_why() -> None:
    """Token 2, then 5, later 2 again: head 1.0 brings the 5 to the end, because its feature says `after 2`."""
    model, coders = planted_induction()
    attention = model.transformer.h[1].attn
    attention.c_attn.weight[5, 2 * 96 + 40] = 1  # its value: token 5,
    attention.c_proj.weight[40, 90] = 1  # written where the target reads
    linear = linear_model(model, family_of("gpt2"), HOOKS)
    frozen = freeze(linear, coders.__getitem__, torch.tensor([7, 8, 2, 5, 6, 8, 7, 2]))
    reading = torch.zeros(1, 96)
    reading[0, 90] = 1
    ends = Ends(logit_targets(linear, frozen, reading, torch.tensor([7])), np.ones(1, np.float32))
    graph = finished(attribution_steps(linear, frozen, coders.__getitem__, ends, GraphSettings(), max_bytes=10**8))
    of = graph, prune(graph, 1.0, 1.0)
    found = carried_edges(linear, frozen, coders.__getitem__, of, LoadingSettings(edges=2, pairs=2), 10**8)
    source, target = found.edges[0]
    assert source - graph.n_features - graph.n_layers * 8 == 3
    assert target == graph.n_nodes - 1
    loadings = found.loadings
    assert (loadings.layer[0], loadings.head[0]) == INDUCTION
    assert (loadings.query[0], loadings.key[0]) == (7, 3)
    weight = graph.edges[-1, source]
    assert loadings.loading[0] == pytest.approx(weight, rel=1e-3)
    assert loadings.through[0] == pytest.approx(weight, rel=1e-3)
    query, key = found.pairs[0].query, found.pairs[0].key
    assert (query.kind[0], query.unit[0], query.position[0]) == (2, 2, 7)
    assert (key.kind[0], key.layer[0], key.unit[0], key.position[0]) == (0, 0, PREVIOUS_IS[2], 3)


def test_a_graph_without_edges_between_tokens_has_no_heads() -> None:
    model, coders = planted_induction()
    linear = linear_model(model, family_of("gpt2"), HOOKS)
    frozen = freeze(linear, coders.__getitem__, torch.tensor([7]))
    ends = Ends(logit_targets(linear, frozen, torch.ones(1, 96), torch.tensor([0])), np.ones(1, np.float32))
    graph = finished(attribution_steps(linear, frozen, coders.__getitem__, ends, GraphSettings(), max_bytes=10**8))
    found = carried_edges(linear, frozen, coders.__getitem__, (graph, prune(graph, 1.0, 1.0)), LoadingSettings(), 10**8)
    assert found.edges == ()
    assert found.pairs == ()
