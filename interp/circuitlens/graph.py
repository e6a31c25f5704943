"""The attribution graph of one prompt (Ameisen et al. 2025), pruned by influence on its targets.

Nodes are the active features, the errors of every layer and token, the token embeddings, and the targets: logits of
next tokens or other readings. An edge is the direct contribution of one node to another: MLPs on the way count as
nodes, not as paths.
"""

from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from interp.activations.encoding import Encoder
from interp.circuitlens.attribution import Targets, contributions, feature_targets
from interp.circuitlens.edges import FoundEdges, influence_of, limits
from interp.circuitlens.frozen import Frozen
from interp.circuitlens.linear import LinearModel
from interp.transcoder import Transcoder

ACTIVE_FIELDS = ("feature", "position", "activation")

MAX_MEMORY_GB = 8.0
"""Default memory for edges, in GB."""


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
    cut: "Cut | None" = None
    """What was left out because memory did not suffice; None: nothing."""

    @property
    def n_features(self) -> int:
        """Number of active features (feature, position) among the nodes."""
        return len(self.layer)

    @property
    def n_ends(self) -> int:
        """Number of target nodes."""
        return len(self.ends.weight)

    @property
    def n_nodes(self) -> int:
        """Number of nodes, targets included."""
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
    max_memory_gb: float = MAX_MEMORY_GB
    """Memory for edges, in GB, while they are found and pruned; beyond it fewer features are attributed and the weakest
    edges of each node are dropped (`Graph.cut`)."""


class Cut(NamedTuple):
    """What was left out of a graph because memory did not suffice."""

    n_features: int
    """Number of features that were asked for and not attributed."""
    n_strongest: int
    """Number of edges of each node that were kept while nodes were chosen, the strongest ones."""
    held: float
    """The share of the nodes' inputs, weighted by their influence, that comes along these edges."""


class Step(NamedTuple):
    """The progress of a graph: features attributed so far, and in all."""

    n_attributed: int
    n_wanted: int


@torch.no_grad()
def attribution_steps(
    linear: LinearModel,
    frozen: Frozen,
    encoder: Callable[[int], Encoder | Transcoder],
    ends: Ends,
    settings: GraphSettings,
    max_bytes: int,
) -> Generator[Step, None, Graph]:
    """Attribute the targets, then features; if not all are attributed, those with the greatest influence. It yields its
    progress after each batch of features and returns the graph; `finished` runs it to its end.

    `encoder` returns a layer's encoder; it is called in each round that has features of the layer. Memory: the frozen
    model, `settings.max_memory_gb`, and `max_bytes` for gradients.

    Raises:
        ValueError: `max_memory_gb` is too little for the prompt.
    """
    n_ends, n_active = len(ends.weight), frozen.n_active
    n_others = (linear.n_layers + 1) * frozen.n_pos
    n_asked = n_active if settings.max_features is None else min(settings.max_features, n_active)
    fits = limits(n_asked, n_active + n_others, n_others, n_ends, 1e9 * settings.max_memory_gb)
    n_wanted, n_sources = fits.n_features, n_active + n_others
    edges = FoundEdges(n_sources + n_ends, n_wanted + n_ends, fits.n_strongest)
    where = _Where.of(frozen)
    is_attributed = np.zeros(n_sources + n_ends, bool)
    for rows, nodes in _rows(linear, frozen, ends.readings, max_bytes):
        edges.add(_with_ends(rows, n_ends), n_sources + nodes)
    n_done = 0
    while n_done < n_wanted:
        if n_wanted == n_active:
            next_ = np.arange(n_active)
        else:
            reached = edges.influence(ends.weight)[:n_active].copy()
            reached[is_attributed[:n_active]] = -1
            next_ = np.argsort(-reached, kind="stable")[: min(n_wanted - n_done, max(64, n_wanted // 8))]
        targets, order = where.targets(linear, frozen, encoder, next_)
        for rows, nodes in _rows(linear, frozen, targets, max_bytes):
            edges.add(_with_ends(rows, n_ends), order[nodes])
            n_done += len(nodes)
            yield Step(n_done, n_wanted)
        is_attributed[next_] = True
    features = np.nonzero(is_attributed[:n_active])[0]
    kept = np.concatenate([features, np.arange(n_active, n_sources + n_ends)])
    cut = None
    if n_wanted < n_asked or edges.n_strongest is not None:
        held = edges.held(ends.weight)
        cut = Cut(n_asked - n_wanted, edges.n_strongest or n_sources, held)
    return Graph(
        layer=where.layer[features],
        feature=where.feature[features],
        position=where.position[features],
        activation=where.activation[features],
        tokens=frozen.tokens.cpu().numpy(),
        ends=ends,
        n_layers=linear.n_layers,
        edges=edges.among(np.argsort(edges.nodes, kind="stable"), kept),
        cut=cut,
    )


def finished(steps: Generator[Step, None, Graph], hear: Callable[[Step], None] = lambda step: None) -> Graph:
    """Run the steps to their end and return the graph; `hear` is called with the progress of each step."""
    while True:
        try:
            hear(next(steps))
        except StopIteration as end:
            graph: Graph = end.value
            return graph


class _Where(NamedTuple):
    """All active features, in the order of the frozen layers."""

    layer: Int64[np.ndarray, " n_active"]
    feature: Int64[np.ndarray, " n_active"]
    position: Int64[np.ndarray, " n_active"]
    activation: Float32[np.ndarray, " n_active"]

    @classmethod
    def of(cls, frozen: Frozen) -> "_Where":
        active = [layer.active for layer in frozen.layers]
        layer = np.repeat(np.arange(len(active)), [len(one.feature) for one in active])
        columns = (torch.cat([getattr(one, name) for one in active]).cpu().numpy() for name in ACTIVE_FIELDS)
        return cls(layer, *columns)

    def targets(
        self,
        linear: LinearModel,
        frozen: Frozen,
        encoder: Callable[[int], Encoder | Transcoder],
        features: Int64[np.ndarray, " n"],
    ) -> tuple[Targets, Int64[np.ndarray, " n"]]:
        """The given features as targets, ordered by layer, and their indices in that order."""
        parts, order = [], []
        for layer in np.unique(self.layer[features]).tolist():
            own = np.sort(features[self.layer[features] == layer])
            where = (torch.from_numpy(x[own]).to(frozen.embedding.device) for x in (self.feature, self.position))
            parts.append(feature_targets(linear, frozen, layer, encoder(layer), *where))
            order.append(own)
        return Targets(*(torch.cat(columns) for columns in zip(*parts, strict=True))), np.concatenate(order)


def _rows(
    linear: LinearModel, frozen: Frozen, targets: Targets, max_bytes: int
) -> Iterator[tuple[Float[Tensor, "n n_sources"], Int64[np.ndarray, " n"]]]:
    """The contributions of all features, errors and tokens to the targets, in batches, each with the indices of its
    targets."""
    for found in contributions(linear, frozen, targets, max_bytes=max_bytes):
        n, seen = len(found.target), found.tokens.shape[0]
        rest = found.features.new_zeros(n, linear.n_layers + 1, frozen.n_pos)
        rest[:, :-1, :seen] = found.errors.permute(2, 0, 1)
        rest[:, -1, :seen] = found.tokens.T
        yield torch.cat([found.features.T, rest.flatten(1)], 1), found.target.cpu().numpy()


def _with_ends(rows: Float[Tensor, "n n_sources"], n_ends: int) -> Float[Tensor, "n n_nodes"]:
    """The rows with columns of zeros for the targets, which contribute to nothing."""
    return torch.cat([rows, rows.new_zeros(len(rows), n_ends)], 1)


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
    influence = influence_of(graph.edges, node_of_row, graph.ends.weight)
    nodes = influence >= _threshold(influence, node_threshold)
    nodes[n_nodes - n_always :] = True
    inside = np.ix_(np.nonzero(nodes[node_of_row])[0], np.nonzero(nodes)[0])
    among = graph.edges[inside]
    place = np.cumsum(nodes)[node_of_row[inside[0][:, 0]]] - 1  # the row of each kept node
    absolute = np.abs(among)
    shares = absolute / np.maximum(absolute.sum(1, keepdims=True), 1e-10)
    reached = influence_of(among, place, graph.ends.weight)
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
    influence = influence_of(edges, node_of_row, weight).astype(np.float64)
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
