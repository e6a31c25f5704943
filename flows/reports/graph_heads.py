"""The heads that carry an attribution graph's edges, for people."""

from collections.abc import Iterator
from typing import cast

from flows.reports.graph_tests import LABEL
from flows.reports.tables import Table
from interp.display import visible
from storage.exchange.attribution_graph import GraphFile
from storage.exchange.graph_heads import CarriedEdge, Side

SHOWN_EDGES = 8
"""The file has all."""


def heads_of(graph: GraphFile) -> Iterator[Table]:
    """A table of the strongest edges and the head that carries most of each; none if heads were not asked for."""
    edges = cast(list[CarriedEdge], graph["metadata"].get("heads", []))
    texts = cast(list[str], graph["metadata"]["prompt_tokens"])
    if not edges:
        return
    label = {node["node_id"]: node["clerp"] for node in graph["nodes"]}
    table = Table("source", "target", "weight", "head", "loading", "from", "to", "strongest pair", title="Heads")
    for edge in edges[:SHOWN_EDGES]:
        ends = (f"{node} {visible(label.get(node, ''))[:LABEL]}".rstrip() for node in (edge["source"], edge["target"]))
        for head in edge["heads"][:1]:
            pairs = head["pairs"][:1]
            said = [f"{side_name(one['query'])} × {side_name(one['key'])} {one['score']:+.3g}" for one in pairs]
            places = (f"{at} {visible(texts[at])}" for at in (head["query_position"], head["key_position"]))
            name = f"{head['layer']}.{head['head']}"
            of_score = "" if head["score"] is None else f" of {head['score']:.3g}"
            table.add_row(
                *ends, f"{edge['weight']:+.3g}", name, f"{head['loading']:+.3g}", *places, "".join(said) + of_score
            )
    yield table


def side_name(side: Side) -> str:
    """A source of a query or a key in a few characters."""
    where = "" if side["position"] is None else f"@{side['position']}"
    if side["kind"] == "feature":
        return f"{side['layer']}/{side['index']}{where}"
    return f"{side['kind']}{where}"
