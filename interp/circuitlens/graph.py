"""The attribution graph of one prompt (Ameisen et al. 2025), pruned by influence on its targets.

Nodes are the active features, the errors of every layer and token, the token embeddings, and the targets: logits of
next tokens or other readings. An edge is the direct contribution of one node to another: MLPs on the way count as
nodes, not as paths.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from interp.activations.encoding import Encoder
from interp.circuitlens.attribution import Targets, contributions, feature_targets
from interp.circuitlens.frozen import Frozen
from interp.circuitlens.linear import LinearModel
from interp.transcoder import Transcoder

ACTIVE_FIELDS = ("feature", "position", "activation")

MOST_STEPS = 1000
"""An upper bound for the length of paths; no model has so many layers."""

NUMBERS_AT_ONCE = 1 << 20
"""Number of edges copied at a time to be summed (4 MB)."""


class Graph(NamedTuple):
    """Nodes in the order features, errors (by layer, then token), tokens, targets. A row of edges has all sources of
    one node.

    Memory: four bytes for each pair of an attributed feature or target and a node.
    """

    layer: Int64[np.ndarray, " n_features"]
    feature: Int64[np.ndarray, " n_features"]
    position: Int64[np.ndarray, " n_features"]
    activation: Float32[np.ndarray, " n_features"]
    tokens: Int64[np.ndarray, " n_pos"]
    ends: "Ends"
    """The targets."""
    n_layers: int
    edges: Float32[np.ndarray, "n_rows n_nodes"]
    """One row for each attributed feature, then one for each target; other nodes have no sources within the graph."""

    @property
    def n_features(self) -> int:
        return len(self.layer)

    @property
    def n_ends(self) -> int:
        return len(self.ends.weight)

    @property
    def n_nodes(self) -> int:
        return self.edges.shape[1]

    @property
    def node_of_row(self) -> Int64[np.ndarray, " n_rows"]:
        """The node that each row of edges leads to."""
        return np.concatenate([np.arange(self.n_features), np.arange(self.n_nodes - self.n_ends, self.n_nodes)])


class Ends(NamedTuple):
    """The targets of a graph: what it explains."""

    readings: Targets
    weight: Float32[np.ndarray, " n_ends"]
    """Weight of each target; influence is counted on all targets together."""


class Probable(NamedTuple):
    """The most probable tokens after one of a prompt, in descending order."""

    token: Int64[Tensor, " n"]
    probability: Float[Tensor, " n"]


def next_probability(linear: LinearModel, frozen: Frozen, position: int) -> Float[Tensor, " d_vocab"]:
    """The probability of every token after the one at a position."""
    norm = linear.final
    read = norm.normalize(frozen.final[position]) * norm.weight + (0 if norm.bias is None else norm.bias)
    return linear.family.logits(linear.model, read).softmax(0)


def likeliest(probability: Float[Tensor, " d_vocab"], n: int, share: float) -> Probable:
    """The most probable tokens until they have `share` of the probability, at most `n`."""
    highest, token = probability.topk(min(n, len(probability)))
    n_wanted = int((highest.cumsum(0) < share).sum()) + 1
    return Probable(token[:n_wanted], highest[:n_wanted])


class GraphSettings(NamedTuple):
    """How much of a graph is computed and kept."""

    max_logits: int = 10
    """Largest number of next tokens as targets, where the targets are the most probable tokens."""
    logit_share: float = 0.95
    """Share of the probability that these tokens have together."""
    max_features: int | None = 7500
    """Number of active features that are attributed, those of greatest influence first; None: all."""
    node_threshold: float = 0.8
    """Share of all influence on the targets that the kept nodes have."""
    edge_threshold: float = 0.98
    """Share of all influence that the kept edges between them have."""


@torch.no_grad()
def attribution_graph(
    linear: LinearModel,
    frozen: Frozen,
    encoder: Callable[[int], Encoder | Transcoder],
    ends: Ends,
    settings: GraphSettings,
    max_bytes: int,
) -> Graph:
    """Attribute the targets, then features, in order of influence where not all are attributed.

    `encoder` gives a layer's encoder and is called once for each. Memory: the graph, its edges from features that are
    not attributed, and `max_bytes`.
    """
    n_ends = len(ends.weight)
    n_active, targets = frozen.n_active, _all_features(linear, frozen, encoder)
    n_wanted = n_active if settings.max_features is None else min(settings.max_features, n_active)
    edges = _Edges(linear, frozen, n_wanted, n_ends, max_bytes)
    edges.attribute(ends.readings, edges.n_sources + np.arange(n_ends))
    while edges.n_features < n_wanted:
        left = n_wanted - edges.n_features
        if n_wanted == n_active:
            next_ = np.arange(n_active)
        else:
            influence = edges.influence(ends.weight)[:n_active].copy()
            influence[edges.is_attributed[:n_active]] = -1
            next_ = np.argsort(-influence, kind="stable")[: min(left, max(64, n_wanted // 8))]
        edges.attribute(targets.at(torch.from_numpy(next_).to(targets.layer.device)), next_)
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
        ends=ends,
        n_layers=linear.n_layers,
        edges=rows,
    )


def _all_features(linear: LinearModel, frozen: Frozen, encoder: Callable[[int], Encoder | Transcoder]) -> Targets:
    """Every active feature as a target, in the order of the frozen layers."""
    per_layer = [
        feature_targets(linear, frozen, at, encoder(at), layer.active.feature, layer.active.position)
        for at, layer in enumerate(frozen.layers)
    ]
    return Targets(*(torch.cat(columns) for columns in zip(*per_layer, strict=True)))


class _Edges:
    """The rows of edges found so far: to features (by their number among all active ones) and to targets."""

    def __init__(self, linear: LinearModel, frozen: Frozen, n_wanted: int, n_ends: int, max_bytes: int) -> None:
        self.linear, self.frozen, self.max_bytes = linear, frozen, max_bytes
        self.n_sources = frozen.n_active + (linear.n_layers + 1) * frozen.n_pos
        self.is_attributed = np.zeros(self.n_sources + n_ends, bool)
        self.rows = np.zeros((n_wanted + n_ends, self.n_sources + n_ends), np.float32)
        self.nodes = np.zeros(0, np.int64)
        """Features whose rows have been found, in order."""

    @property
    def n_features(self) -> int:
        return int(self.is_attributed[: self.frozen.n_active].sum())

    def attribute(self, targets: Targets, nodes: Int64[np.ndarray, " n"]) -> None:
        n_active, n_layers, n_pos = self.frozen.n_active, self.linear.n_layers, self.frozen.n_pos
        for found in contributions(self.linear, self.frozen, targets, max_bytes=self.max_bytes):
            n, seen = len(found.target), found.tokens.shape[0]
            rows = self.rows[len(self.nodes) :][:n]
            rows[:, :n_active] = found.features.T.cpu().numpy()
            rest = np.zeros((n, n_layers + 1, n_pos), np.float32)
            rest[:, :-1, :seen] = found.errors.permute(2, 0, 1).cpu().numpy()
            rest[:, -1, :seen] = found.tokens.T.cpu().numpy()
            rows[:, n_active : self.n_sources] = rest.reshape(n, -1)
            self.nodes = np.concatenate([self.nodes, nodes[found.target.cpu().numpy()]])
        self.is_attributed[self.nodes] = True

    def influence(self, weight: Float32[np.ndarray, " n_ends"]) -> np.ndarray:
        """The influence of every node, from the rows found so far."""
        return _influence(self.rows[: len(self.nodes)], self.nodes, weight)

    def taken(self) -> tuple[np.ndarray, np.ndarray]:
        """The attributed features in order, and their rows and those of targets without other features as sources."""
        features = np.nonzero(self.is_attributed[: self.frozen.n_active])[0]
        columns = np.concatenate([features, np.arange(self.frozen.n_active, len(self.is_attributed))])
        return features, self.rows[np.ix_(np.argsort(self.nodes, kind="stable"), columns)]


def _influence(
    edges: Float32[np.ndarray, "n_rows n_nodes"],
    node_of_row: Int64[np.ndarray, " n_rows"],
    weight: Float32[np.ndarray, " n_ends"],
) -> Float32[np.ndarray, " n_nodes"]:
    """The influence of every node on the targets along paths of any length. Each node passes its influence on to its
    inputs in proportion to their contributions."""
    n_nodes = edges.shape[1]
    n_rows = max(1, NUMBERS_AT_ONCE // n_nodes)
    parts = [slice(at, at + n_rows) for at in range(0, len(edges), n_rows)]
    rows, of_row = torch.from_numpy(edges), torch.from_numpy(node_of_row)
    inputs = torch.cat([rows[part].abs().sum(1) for part in parts]).clamp(min=1e-10)
    total = torch.zeros(n_nodes)
    passing = total.clone()
    passing[-len(weight) :] = torch.from_numpy(weight)
    for _ in range(MOST_STEPS):
        shared, passing = passing[of_row] / inputs, torch.zeros_like(total)
        for part in parts:
            if shared[part].any():
                passing += shared[part] @ rows[part].abs()
        if not passing.any():
            return total.numpy()
        total += passing
    raise ValueError("the graph has a cycle: a feature seems to contribute to itself")


class Pruned(NamedTuple):
    """The part of a graph that is kept."""

    nodes: Bool[np.ndarray, " n_nodes"]
    edges: Bool[np.ndarray, "n_rows n_nodes"]
    influence: Float32[np.ndarray, " n_nodes"]
    """The share of all influence that a node and all stronger ones have; 1 for the weakest."""
    share: Float32[np.ndarray, " n_nodes"]
    """The share of all influence that a node has; for a target, its weight over all influence."""


def prune(graph: Graph, node_threshold: float, edge_threshold: float) -> Pruned:
    """Keep the nodes that have `node_threshold` of all influence, and the edges between them likewise.

    Tokens and targets are always kept. Features and errors must have a path to the targets, and features also a source.
    The rules are those of circuit-tracer.
    """
    n_features, n_always = graph.n_features, len(graph.tokens) + graph.n_ends
    n_nodes, node_of_row = graph.n_nodes, graph.node_of_row
    influence = _influence(graph.edges, node_of_row, graph.ends.weight)
    nodes = influence >= _threshold(influence, node_threshold)
    nodes[n_nodes - n_always :] = True
    inside = np.ix_(np.nonzero(nodes[node_of_row])[0], np.nonzero(nodes)[0])
    among = graph.edges[inside]
    place = np.cumsum(nodes)[node_of_row[inside[0][:, 0]]] - 1  # the row of each kept node
    absolute = np.abs(among)
    shares = absolute / np.maximum(absolute.sum(1, keepdims=True), 1e-10)
    reached = _influence(among, place, graph.ends.weight)
    reached[-graph.n_ends :] += graph.ends.weight
    scores = shares * reached[place, None]
    kept = scores >= _threshold(scores.ravel(), edge_threshold)
    still, n_causes, n_caused = np.ones(len(reached), bool), int(nodes[:-n_always].sum()), int(nodes[:n_features].sum())
    while True:
        before = still.copy()
        still[:n_causes] &= kept[:, :n_causes].any(0)
        still[:n_caused] &= kept[:n_caused].any(1)
        kept &= still[place, None] & still
        if (before == still).all():
            break
    edges = np.zeros(graph.edges.shape, bool)
    edges[inside] = kept
    nodes[nodes] = still
    order = np.argsort(-influence, kind="stable")
    cumulative = np.empty_like(influence)
    total = max(float(influence.sum()), 1e-30)  # there may be none
    cumulative[order] = np.cumsum(influence[order]) / total
    share = influence.copy()
    share[-graph.n_ends :] += graph.ends.weight
    return Pruned(nodes, edges, cumulative, share / np.float32(total))


class Scores(NamedTuple):
    """How much of a graph is explained, as circuit-tracer defines it."""

    replacement: float
    """Replacement score: of the influence on the targets that comes from tokens and errors, the share of tokens."""
    completeness: float
    """Completeness score: of the inputs of nodes, weighted by the nodes' influence, the share that is not from
    errors."""


def graph_scores(graph: Graph) -> Scores:
    """Replacement and completeness score of a whole graph."""
    n_nodes, n_features = graph.n_nodes, graph.n_features
    first_token = n_features + graph.n_layers * len(graph.tokens)
    errors, tokens = np.zeros(n_nodes, bool), np.zeros(n_nodes, bool)
    errors[n_features:first_token], tokens[first_token : n_nodes - graph.n_ends] = True, True
    return scores_of(graph.edges, graph.node_of_row, graph.ends.weight, errors, tokens)


def scores_of(
    edges: Float32[np.ndarray, "n_rows n_nodes"],
    node_of_row: Int64[np.ndarray, " n_rows"],
    weight: Float32[np.ndarray, " n_ends"],
    errors: Bool[np.ndarray, " n_nodes"],
    tokens: Bool[np.ndarray, " n_nodes"],
) -> Scores:
    """The same scores for edges between nodes in any order, with the targets last. Both are 0 without any influence."""
    influence = _influence(edges, node_of_row, weight).astype(np.float64)
    inputs = np.abs(edges).sum(1, dtype=np.float64).clip(1e-10)
    from_errors = np.zeros(len(influence))
    from_errors[node_of_row] = np.abs(edges[:, errors]).sum(1, dtype=np.float64) / inputs
    out = influence.copy()
    out[-len(weight) :] += weight
    ends = influence[tokens].sum() + influence[errors].sum()
    replacement = float(influence[tokens].sum() / ends) if ends else 0.0
    return Scores(replacement, float(((1 - from_errors) * out).sum() / out.sum()) if out.sum() else 0.0)


def _threshold(scores: Float32[np.ndarray, " n"], share: float) -> float:
    """The score of the last item needed for `share` of their sum, the greatest first; infinity where the sum is 0."""
    ordered = np.sort(scores)[::-1]
    if not len(ordered) or not ordered[0]:
        return np.inf
    cumulative = np.cumsum(ordered) / ordered.sum()
    return float(ordered[min(int(np.searchsorted(cumulative, np.float32(share))), len(ordered) - 1)])
