"""The heads that carry a graph's edges, as its file and the catalog have them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypedDict

from interp.circuitlens.kinds import FEATURE, KINDS, TOKEN
from interp.circuitlens.loadings import CarriedEdges
from interp.circuitlens.qk import QKPairs, Sources
from storage.exchange.attribution_graph import GraphFile


class Side(TypedDict):
    """One source of a query or a key."""

    kind: str
    """`feature`, `token`, `error` or `bias`."""
    layer: int | None
    """The layer of a feature; None for other sources."""
    index: int | None
    """The number of a feature in its layer, or a token's id."""
    position: int | None
    """The position of a feature or token; None for other sources."""


class Pair(TypedDict):
    """A pair of sources, and what it adds to a head's score."""

    query: Side
    key: Side
    score: float


class CarryingHead(TypedDict):
    """A head that carries an edge."""

    layer: int
    head: int
    loading: float
    """The part of the edge's weight on paths through the head."""
    query_position: int
    """The token at which the head writes most of its loading."""
    key_position: int
    """The token that the head reads there."""
    through: float
    """The part of the loading that is read and written at these two tokens."""
    score: float | None
    """The head's score there before the softmax, and before a soft cap: the sum of all pairs; None: no pair is other
    than 0."""
    pairs: list[Pair]
    """The strongest pairs."""


class CarriedEdge(TypedDict):
    """An edge with the heads that carry it, those of the greatest loading first."""

    source: str
    target: str
    weight: float
    heads: list[CarryingHead]


def heads_json(file: GraphFile, ids: Sequence[str], found: CarriedEdges) -> list[CarriedEdge]:
    """Edges with their heads, nodes by their ids."""
    weights = {(link["source"], link["target"]): link["weight"] for link in file["links"]}
    edges: list[CarriedEdge] = [
        {"source": ids[source], "target": ids[target], "weight": weights[ids[source], ids[target]], "heads": []}
        for source, target in found.edges
    ]
    rows = zip(*(column.tolist() for column in found.loadings), found.pairs, strict=True)
    for edge, layer, head, loading, query, key, through, pairs in rows:
        edges[edge]["heads"].append(
            {
                "layer": layer, "head": head, "loading": loading, "query_position": query, "key_position": key,
                "through": through, "score": float(pairs.head_score[0]) if len(pairs.look) else None,
                "pairs": list(_pairs(pairs)),
            }
        )  # fmt: skip
    return edges


def _pairs(pairs: QKPairs) -> Iterator[Pair]:
    for at, score in enumerate(pairs.score.tolist()):
        yield {"query": _side(pairs.query, at), "key": _side(pairs.key, at), "score": score}


def _side(of: Sources, at: int) -> Side:
    kind = KINDS[int(of.kind[at])]
    is_listed = kind in (FEATURE, TOKEN)
    return {
        "kind": kind,
        "layer": int(of.layer[at]) if kind == FEATURE else None,
        "index": int(of.unit[at]) if is_listed else None,
        "position": int(of.position[at]) if is_listed else None,
    }


def with_heads(file: GraphFile, edges: list[CarriedEdge]) -> GraphFile:
    """A graph's file with the heads that carry its edges."""
    return {**file, "metadata": {**file["metadata"], "heads": edges}}


def head_rows(edges: Sequence[CarriedEdge]) -> Iterator[dict[str, object]]:
    """Rows of `graph_heads`, without what names the graph."""
    for edge in edges:
        for rank, head in enumerate(edge["heads"]):
            yield {
                "source": edge["source"], "target": edge["target"], "rank": rank, "head_layer": head["layer"],
                "head": head["head"], "loading": head["loading"], "query_position": head["query_position"],
                "key_position": head["key_position"], "through": head["through"], "head_score": head["score"],
            }  # fmt: skip


def pair_rows(edges: Sequence[CarriedEdge]) -> Iterator[dict[str, object]]:
    """Rows of `graph_head_pairs`, likewise; a score is split once, however many edges the head carries."""
    heads = {
        (head["layer"], head["head"], head["query_position"], head["key_position"]): head["pairs"]
        for edge in edges
        for head in edge["heads"]
    }
    for (layer, head, query, key), pairs in heads.items():
        for rank, pair in enumerate(pairs):
            sides = {**_columns("query", pair["query"]), **_columns("key", pair["key"])}
            yield {
                "head_layer": layer, "head": head, "query_position": query, "key_position": key, "rank": rank,
                **sides, "score": pair["score"],
            }  # fmt: skip


def _columns(name: str, side: Side) -> Mapping[str, object]:
    return {
        f"{name}_kind": side["kind"], f"{name}_layer": side["layer"], f"{name}_index": side["index"],
        f"{name}_source_position": side["position"],
    }  # fmt: skip
