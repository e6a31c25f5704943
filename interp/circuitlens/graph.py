"""The attribution graph of one prompt (Ameisen et al. 2025), pruned by influence on the logits.

Nodes are the active features, the errors of every layer and token, the token embeddings, and the likeliest next tokens;
an edge is what one contributes to another, directly: MLPs on the way count as nodes, not as paths.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from interp.circuitlens.attribution import Targets, contributions, feature_targets, logit_targets
from interp.circuitlens.frozen import Frozen, LinearModel
from interp.transcoder import Transcoder

ACTIVE_FIELDS = ("feature", "position", "activation")

MOST_STEPS = 1000
"""Longer paths than any model has layers."""


class Graph(NamedTuple):
    """Nodes in the order features, errors (by layer, then token), tokens, logits; edges as rows of targets.

    Memory: four bytes for each pair of an attributed feature or logit and a node.
    """

    layer: Int64[np.ndarray, " n_features"]
    feature: Int64[np.ndarray, " n_features"]
    position: Int64[np.ndarray, " n_features"]
    activation: Float32[np.ndarray, " n_features"]
    tokens: Int64[np.ndarray, " n_pos"]
    logits: Int64[np.ndarray, " n_logits"]
    """Token ids, the likeliest first."""
    probability: Float32[np.ndarray, " n_logits"]
    n_layers: int
    edges: Float32[np.ndarray, "n_targets n_nodes"]
    """Features first, then logits: nothing else is caused within the graph."""

    @property
    def n_features(self) -> int:
        return len(self.layer)

    @property
    def n_nodes(self) -> int:
        return self.edges.shape[1]


class Probable(NamedTuple):
    """The likeliest tokens after the last one of a prompt."""

    token: Int64[Tensor, " n"]
    probability: Float[Tensor, " n"]


def likeliest(linear: LinearModel, frozen: Frozen, n: int, share: float) -> Probable:
    """The likeliest next tokens until they have `share` of the probability, at most `n`."""
    norm, W_U = linear.final, linear.family.W_U(linear.model)
    logits = (norm.normalize(frozen.final[-1]) * norm.weight + (0 if norm.bias is None else norm.bias)) @ W_U.float().T
    cap = getattr(linear.model.config, "final_logit_softcapping", None)  # pyright: ignore[reportAttributeAccessIssue]
    logits = logits if cap is None else cap * (logits / cap).tanh()
    probability, token = logits.softmax(0).topk(min(n, len(logits)))
    n_wanted = int((probability.cumsum(0) < share).sum()) + 1
    return Probable(token[:n_wanted], probability[:n_wanted])


@torch.no_grad()
def attribution_graph(
    linear: LinearModel,
    frozen: Frozen,
    transcoder: Callable[[int], Transcoder],
    *,
    max_logits: int,
    logit_share: float,
    max_features: int | None,
    max_bytes: int,
) -> Graph:
    """Attribute the likeliest next tokens, then features, those of greatest influence first where not all are taken.

    Logits are read less their mean over the vocabulary, which no probability depends on.
    """
    found = likeliest(linear, frozen, max_logits, logit_share)
    W_U = linear.family.W_U(linear.model).float()
    last = torch.full_like(found.token, frozen.n_pos - 1)
    top = logit_targets(linear, frozen, W_U[found.token] - W_U.mean(0), last)
    edges = _Edges(linear, frozen, len(found.token), max_bytes)
    edges.attribute(top, edges.n_sources + np.arange(len(found.token)))
    n_active, targets = frozen.n_active, _all_features(linear, frozen, transcoder)
    n_wanted = n_active if max_features is None else min(max_features, n_active)
    while edges.n_features < n_wanted:
        left = n_wanted - edges.n_features
        if n_wanted == n_active:
            next_ = np.arange(n_active)
        else:
            influence = edges.influence(found.probability.cpu().numpy())[:n_active].copy()
            influence[edges.is_attributed[:n_active]] = -1
            next_ = np.argsort(-influence, kind="stable")[: min(left, max(64, n_wanted // 8))]
        edges.attribute(targets.at(torch.from_numpy(next_).to(last.device)), next_)
    features, rows = edges.taken()
    columns = [torch.cat([getattr(layer.active, name) for layer in frozen.layers]) for name in ACTIVE_FIELDS]
    of_layer = np.repeat(np.arange(linear.n_layers), [len(layer.active.feature) for layer in frozen.layers])
    feature, position, activation = (column.cpu().numpy()[features] for column in columns)
    return Graph(
        layer=of_layer[features],
        feature=feature,
        position=position,
        activation=activation,
        tokens=frozen.tokens.cpu().numpy(),
        logits=found.token.cpu().numpy(),
        probability=found.probability.cpu().numpy(),
        n_layers=linear.n_layers,
        edges=rows,
    )


def _all_features(linear: LinearModel, frozen: Frozen, transcoder: Callable[[int], Transcoder]) -> Targets:
    """Every active feature as a target, in the order of the frozen layers."""
    per_layer = [
        feature_targets(linear, frozen, at, transcoder(at), layer.active.feature, layer.active.position)
        for at, layer in enumerate(frozen.layers)
    ]
    return Targets(*(torch.cat(columns) for columns in zip(*per_layer, strict=True)))


class _Edges:
    """Rows of edges as they are found: to features (by their number among all active ones) and to logits."""

    def __init__(self, linear: LinearModel, frozen: Frozen, n_logits: int, max_bytes: int) -> None:
        self.linear, self.frozen, self.max_bytes = linear, frozen, max_bytes
        self.n_sources = frozen.n_active + (linear.n_layers + 1) * frozen.n_pos
        self.is_attributed = np.zeros(self.n_sources + n_logits, bool)
        self.rows: list[np.ndarray] = []
        self.nodes: list[np.ndarray] = []

    @property
    def n_features(self) -> int:
        return int(self.is_attributed[: self.frozen.n_active].sum())

    def attribute(self, targets: Targets, nodes: Int64[np.ndarray, " n"]) -> None:
        n_pos, n_nodes = self.frozen.n_pos, len(self.is_attributed)
        for found in contributions(self.linear, self.frozen, targets, max_bytes=self.max_bytes):
            n, seen = len(found.target), found.tokens.shape[0]
            row = np.zeros((n, n_nodes), np.float32)
            row[:, : self.frozen.n_active] = found.features.T.cpu().numpy()
            rest = row[:, self.frozen.n_active : self.n_sources].reshape(n, self.linear.n_layers + 1, n_pos)
            rest[:, :-1, :seen] = found.errors.permute(2, 0, 1).cpu().numpy()
            rest[:, -1, :seen] = found.tokens.T.cpu().numpy()
            row[:, self.frozen.n_active : self.n_sources] = rest.reshape(n, -1)
            self.rows.append(row)
            self.nodes.append(nodes[found.target.cpu().numpy()])
            self.is_attributed[self.nodes[-1]] = True

    def influence(self, probability: Float32[np.ndarray, " n_logits"]) -> np.ndarray:
        """Of every node, by what is known so far."""
        return _influence(self.rows, self.nodes, probability)

    def taken(self) -> tuple[np.ndarray, np.ndarray]:
        """(the features attributed, in order; their rows and those of logits, with no other features as sources)"""
        nodes = np.concatenate(self.nodes)
        features = np.nonzero(self.is_attributed[: self.frozen.n_active])[0]
        columns = np.concatenate([features, np.arange(self.frozen.n_active, len(self.is_attributed))])
        rows, order = self.rows, np.argsort(nodes, kind="stable")
        if len(columns) < len(self.is_attributed):
            rows = [row[:, columns] for row in rows]
        return features, np.concatenate(rows)[order]


def _influence(
    edges: Sequence[Float32[np.ndarray, "n_targets n_nodes"]],
    nodes: Sequence[Int64[np.ndarray, " n_targets"]],
    probability: Float32[np.ndarray, " n_logits"],
) -> Float32[np.ndarray, " n_nodes"]:
    """Of every node on the logits, along paths of any length, where each node's inputs share out its influence.

    Edges are given as rows in several parts, with the node of each row. Memory: one part more.
    """
    parts = [(torch.from_numpy(rows), torch.from_numpy(of_row)) for rows, of_row in zip(edges, nodes, strict=True)]
    sums = [rows.abs().sum(1).clamp(min=1e-10) for rows, _ in parts]
    total = torch.zeros(edges[0].shape[1])
    passing = total.clone()
    passing[-len(probability) :] = torch.from_numpy(probability)
    for _ in range(MOST_STEPS):
        before, passing = passing, torch.zeros_like(total)
        for (rows, of_row), inputs in zip(parts, sums, strict=True):
            if before[of_row].any():
                passing += (before[of_row] / inputs) @ rows.abs()
        if not passing.any():
            return total.numpy()
        total += passing
    raise ValueError("the graph has a cycle: a feature seems to contribute to itself")


class Pruned(NamedTuple):
    """What is kept of a graph."""

    nodes: Bool[np.ndarray, " n_nodes"]
    edges: Bool[np.ndarray, "n_targets n_nodes"]
    influence: Float32[np.ndarray, " n_nodes"]
    """The share of all influence that a node and all stronger ones have; 1 for the weakest."""


def prune(graph: Graph, node_threshold: float, edge_threshold: float) -> Pruned:
    """Keep the nodes that have `node_threshold` of all influence, and of the edges between them likewise.

    Tokens and logits are always kept; features and errors need a way to the logits, features also a cause. The same
    rules as circuit-tracer's.
    """
    n_features, n_ends = graph.n_features, len(graph.tokens) + len(graph.logits)
    n_nodes, n_logits = graph.n_nodes, len(graph.logits)
    node_of_row = np.concatenate([np.arange(n_features), np.arange(n_nodes - n_logits, n_nodes)])
    influence = _influence([graph.edges], [node_of_row], graph.probability)
    nodes = influence >= _threshold(influence, node_threshold)
    nodes[n_nodes - n_ends :] = True
    kept = np.where(nodes[node_of_row, None] & nodes, graph.edges, 0)
    absolute = np.abs(kept)
    shares = absolute / np.maximum(absolute.sum(1, keepdims=True), 1e-10)
    reached = _influence([kept], [node_of_row], graph.probability)
    reached[n_nodes - n_logits :] += graph.probability
    scores = shares * reached[node_of_row, None]
    edges = scores >= _threshold(scores.ravel(), edge_threshold)
    while True:
        before = nodes.copy()
        nodes[: n_nodes - n_ends] &= edges[:, : n_nodes - n_ends].any(0)
        nodes[:n_features] &= edges[:n_features].any(1)
        edges &= nodes[node_of_row, None] & nodes
        if (before == nodes).all():
            break
    order = np.argsort(-influence, kind="stable")
    cumulative = np.empty_like(influence)
    cumulative[order] = np.cumsum(influence[order]) / influence.sum()
    return Pruned(nodes, edges, cumulative)


def _threshold(scores: Float32[np.ndarray, " n"], share: float) -> float:
    """The score of the last one needed for `share` of their sum, the greatest first."""
    ordered = np.sort(scores)[::-1]
    cumulative = np.cumsum(ordered) / ordered.sum()
    return float(ordered[min(int(np.searchsorted(cumulative, np.float32(share))), len(ordered) - 1)])
