"""Replacement and completeness score, by inverting the whole matrix, and on a graph that circuit-tracer wrote."""

import json
from pathlib import Path

import numpy as np
import pytest

from interp.capture import Hooks
from interp.circuitlens.graph import Graph, GraphSettings, attribution_steps, finished, graph_scores
from storage.exchange.attribution_graph import read_scores
from tests.frozen_models import frozen_model, likeliest_ends, random_transcoders

THEIRS = Path(__file__).parents[4] / "shared" / "data" / "circuit_tracer_graph" / "bee-insect-plt.json"


def by_inversion(A: np.ndarray, weights: np.ndarray, errors: np.ndarray, tokens: np.ndarray) -> tuple[float, float]:
    """The definition: paths of every length are (I − A)⁻¹ − I, A's rows being shares of what goes into a node."""
    A = np.abs(A) / np.abs(A).sum(1, keepdims=True).clip(1e-10)
    influence = weights @ (np.linalg.inv(np.eye(len(A)) - A) - np.eye(len(A)))
    replacement = influence[tokens].sum() / (influence[tokens].sum() + influence[errors].sum())
    out = influence + weights
    return replacement, ((1 - A[:, errors].sum(1)) * out).sum() / out.sum()


def whole(graph: Graph) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    n, n_logits, n_nodes = graph.n_features, graph.n_ends, graph.n_nodes
    A, weights = np.zeros((n_nodes, n_nodes)), np.zeros(n_nodes)
    A[:n], A[-n_logits:], weights[-n_logits:] = graph.edges[:n], graph.edges[n:], graph.ends.weight
    first_token = n + graph.n_layers * len(graph.tokens)
    return A, weights, np.arange(n, first_token), np.arange(first_token, n_nodes - n_logits)


def test_scores_are_what_their_definition_says() -> None:
    linear, frozen = frozen_model("llama", Hooks("mlp_in", "mlp_out"), coders := random_transcoders("relu"))
    _, ends = likeliest_ends(linear, frozen, 3)
    settings = GraphSettings(max_features=60)
    graph = finished(attribution_steps(linear, frozen, coders.__getitem__, ends, settings, max_bytes=10**8))
    found = graph_scores(graph)
    assert 0 < found.replacement < found.completeness < 1
    np.testing.assert_allclose(found, by_inversion(*whole(graph)), rtol=1e-4)


@pytest.mark.skipif(not THEIRS.is_file(), reason="the graph of circuit-tracer is not at hand")
def test_scores_of_a_graph_of_circuit_tracers() -> None:
    graph = json.loads(THEIRS.read_text(encoding="utf-8"))
    place = {node["node_id"]: at for at, node in enumerate(graph["nodes"])}
    A = np.zeros((len(place), len(place)))
    for link in graph["links"]:
        A[place[link["target"]], place[link["source"]]] = link["weight"]
    weights = np.array([node["token_prob"] if node["feature_type"] == "logit" else 0.0 for node in graph["nodes"]])
    kinds = np.array([node["feature_type"] for node in graph["nodes"]])
    errors, tokens = np.nonzero(kinds == "mlp reconstruction error")[0], np.nonzero(kinds == "embedding")[0]
    found = read_scores(graph)
    assert 0.1 < found.replacement < found.completeness < 1
    np.testing.assert_allclose(found, by_inversion(A, weights, errors, tokens), rtol=1e-4)


def test_a_graph_that_names_no_such_node_is_refused() -> None:
    graph = {"nodes": [], "links": [{"source": "a", "target": "b", "weight": 1.0}]}
    with pytest.raises(ValueError, match="links or probabilities"):
        read_scores(graph)
