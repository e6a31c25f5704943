"""The heads that carry an edge of an attribution graph, and why each looked where it did.

An edge from one token to another is what a source adds to a target along all frozen paths. A head's loading is the part
of it on paths through that head: what the source left in the stream that the head reads, moved by the head, times the
gradient of the target where the head writes. The heads of one layer and its residual stream share the edge out
exactly; paths through heads of several layers count at each of them. Where a head reads and writes most of its loading,
its score is split into pairs of sources (`interp.circuitlens.qk`).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from interp.circuitlens.attribution import Targets, attention_gradients, feature_targets
from interp.circuitlens.forward import N_SUMS, streams_carried
from interp.circuitlens.frozen import Frozen
from interp.circuitlens.graph import Graph, Pruned
from interp.circuitlens.linear import LinearModel
from interp.circuitlens.qk import AttendedPairs, QKPairs, score_parts, sources_beneath, strongest_pairs
from interp.transcoder import Transcoder


class LoadingSettings(NamedTuple):
    """How many edges of a graph are explained by heads."""

    edges: int = 16
    """Edges from one token to another, from features and tokens, those that carry the most influence first."""
    heads: int = 3
    """Heads of each edge, those of the greatest loading first."""
    keys: int = 4
    """Sources of a head's key that are listed one by one."""
    pairs: int = 4
    """Pairs of sources stored for each head's score, the strongest first."""


class Edges(NamedTuple):
    """Edges of a frozen model."""

    source: Int64[Tensor, " n"]
    """Active features of all layers, then tokens, as in `Contributions`."""
    target: Int64[Tensor, " n"]
    """Index of the target that each leads to."""


class HeadLoadings(NamedTuple):
    """Heads that carry edges, one a row, by edge, the greatest loading first."""

    edge: Int64[np.ndarray, " m"]
    layer: Int64[np.ndarray, " m"]
    head: Int64[np.ndarray, " m"]
    loading: Float64[np.ndarray, " m"]
    """The part of the edge's weight on paths through the head."""
    query: Int64[np.ndarray, " m"]
    """The token at which the head writes most of its loading."""
    key: Int64[np.ndarray, " m"]
    """The token that the head reads there."""
    through: Float64[np.ndarray, " m"]
    """The part of the loading that is read and written at these two tokens."""


class CarriedEdges(NamedTuple):
    """Edges of a graph with the heads that carry them, and the pairs that these heads' scores are sums of."""

    edges: tuple[tuple[int, int], ...]
    """The edges, as (source, target) nodes of the graph."""
    loadings: HeadLoadings
    pairs: tuple[QKPairs, ...]
    """The strongest pairs for each row of `loadings`."""


def edges_between_tokens(graph: Graph, pruned: Pruned, n: int) -> list[tuple[int, int]]:
    """The kept edges from features and tokens to another token, those that carry the most influence first."""
    first_token = graph.n_features + graph.n_layers * len(graph.tokens)
    first_end = graph.n_nodes - graph.n_ends
    position = np.concatenate(
        [graph.position, np.tile(np.arange(len(graph.tokens)), graph.n_layers + 1), graph.ends.readings.position.cpu()]
    )
    rows, sources = np.nonzero(pruned.edges)
    targets = graph.node_of_row[rows]
    is_error = (sources >= graph.n_features) & (sources < first_token)
    kept = ~is_error & (sources < first_end) & (position[sources] != position[targets])
    rows, sources, targets = rows[kept], sources[kept], targets[kept]
    wanted, at = np.unique(rows, return_inverse=True)
    inputs = np.array([np.abs(graph.edges[row]).sum() for row in wanted]).clip(1e-10)
    score = np.abs(graph.edges[rows, sources]) / inputs[at] * pruned.share[targets]
    order = np.argsort(-score, kind="stable")[:n]
    return list(zip(sources[order].tolist(), targets[order].tolist(), strict=True))


@torch.no_grad()
def head_loadings(linear: LinearModel, frozen: Frozen, targets: Targets, edges: Edges, n_heads: int) -> HeadLoadings:
    """The heads that carry most of each edge, by magnitude.

    Memory: the gradients of the targets at every layer, the parts of the streams that the sources wrote, and for one
    edge n_heads x n_pos².
    """
    gradients = attention_gradients(linear, frozen, targets)
    rank = torch.argsort(torch.argsort(targets.layer, descending=True, stable=True))[edges.target].tolist()
    chosen, column = torch.unique(edges.source, return_inverse=True)
    found: list[list[_Carried]] = [[] for _ in rank]
    for layer, x in enumerate(streams_carried(linear, frozen, chosen)):
        if layer not in gradients:
            break
        g, weights = gradients[layer], linear.attention[layer]
        n_pos, n_targets = g.shape[:2]
        n_all, d_head, _ = weights.W_O.shape
        u = (g.flatten(0, 1) @ weights.W_O.flatten(0, 1).T).view(n_pos, n_targets, n_all, d_head)
        v = (x[:n_pos, N_SUMS:] @ weights.W_V.flatten(0, 1).T).unflatten(2, (-1, d_head))
        v = v.repeat_interleave(n_all // weights.W_V.shape[0], 2)
        pattern = frozen.layers[layer].pattern[:, :n_pos, :n_pos]
        for edge, (target, source) in enumerate(zip(rank, column.tolist(), strict=True)):
            if target >= n_targets or not v[:, source].any():
                continue
            moved = torch.einsum("qhe,she->hqs", u[:, target], v[:, source]) * pattern
            loading, place = moved.sum((1, 2)), moved.abs().flatten(1).argmax(1)
            for head in range(n_all):
                query, key = divmod(int(place[head]), n_pos)
                through = float(moved[head, query, key])
                found[edge].append(_Carried(float(loading[head]), layer, head, query, key, through))
    return _strongest(found, n_heads)


def _strongest(found: list[list["_Carried"]], n_heads: int) -> HeadLoadings:
    rows = [
        (edge, one)
        for edge, own in enumerate(found)
        for one in sorted(own, key=lambda one: -abs(one.loading))[:n_heads]
        if one.loading
    ]
    whole = [np.array([edge for edge, _ in rows], np.int64)]
    whole += [np.array([getattr(one, name) for _, one in rows], np.int64) for name in ("layer", "head", "query", "key")]
    loading, through = (np.array([getattr(one, name) for _, one in rows]) for name in ("loading", "through"))
    edge, layer, head, query, key = whole
    return HeadLoadings(edge, layer, head, loading, query, key, through)


class _Carried(NamedTuple):
    """The part of an edge that one head carries."""

    loading: float
    layer: int
    head: int
    query: int
    key: int
    through: float


def carried_edges(
    linear: LinearModel,
    frozen: Frozen,
    transcoder: Callable[[int], Transcoder],
    of: tuple[Graph, Pruned],
    settings: LoadingSettings,
    max_bytes: int,
) -> CarriedEdges:
    """The heads that carry a graph's strongest edges between tokens, and why they looked where they did."""
    graph = of[0]
    nodes = edges_between_tokens(*of, settings.edges)
    if not nodes:
        return CarriedEdges((), _strongest([], 0), ())
    leads_to = sorted({target for _, target in nodes})
    targets = _targets(linear, frozen, transcoder, graph, leads_to)
    device = frozen.embedding.device
    source = torch.tensor([_number(frozen, graph, source) for source, _ in nodes], device=device)
    target = torch.tensor([leads_to.index(target) for _, target in nodes], device=device)
    found = head_loadings(linear, frozen, targets, Edges(source, target), settings.heads)
    pairs: dict[int, QKPairs] = {}
    for layer in np.unique(found.layer).tolist():
        own = np.flatnonzero(found.layer == layer)
        attended = AttendedPairs(
            *(torch.from_numpy(column[own]).to(device) for column in (found.head, found.query, found.key))
        )
        sources = sources_beneath(frozen, layer)
        parts = score_parts(linear, frozen, layer, attended, n_keys=settings.keys, max_bytes=max_bytes)
        for row, one in zip(own.tolist(), parts, strict=True):
            pairs[row] = strongest_pairs(iter([one]), sources, settings.pairs)
    return CarriedEdges(tuple(nodes), found, tuple(pairs[row] for row in range(len(found.edge))))


def _targets(
    linear: LinearModel, frozen: Frozen, transcoder: Callable[[int], Transcoder], graph: Graph, nodes: list[int]
) -> Targets:
    """Features and ends of a graph as targets; `nodes` are in ascending order."""
    device, parts = frozen.embedding.device, []
    for node in nodes:
        if node < graph.n_features:
            layer = int(graph.layer[node])
            feature, position = (
                torch.tensor([int(column[node])], device=device) for column in (graph.feature, graph.position)
            )
            parts.append(feature_targets(linear, frozen, layer, transcoder(layer), feature, position))
        else:
            end = node - (graph.n_nodes - graph.n_ends)
            parts.append(graph.ends.readings.at(torch.tensor([end], device=device)))
    return Targets(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _number(frozen: Frozen, graph: Graph, node: int) -> int:
    """The index of a graph's feature or token among all sources of the frozen model."""
    if node >= graph.n_features:
        return frozen.n_active + node - graph.n_features - graph.n_layers * len(graph.tokens)
    layer, position = int(graph.layer[node]), int(graph.position[node])
    active = frozen.layers[layer].active
    here = slice(active.first[position], active.first[position + 1])
    at = int((active.feature[here] == int(graph.feature[node])).nonzero())
    return frozen.first_active[layer] + active.first[position] + at
