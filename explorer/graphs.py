"""Attribution graphs in circuit-tracer's format, from any source: read, checked, and cut to what pages show."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

from explorer.errors import BadRequestError, NotFoundError
from explorer.graph_heads import carried
from storage.exchange.attribution_graph import GraphLink, GraphNode
from storage.exchange.graph_heads import CarriedEdge

MAX_BYTES = 64_000_000
MAX_NODES = 20_000
MAX_LINKS = 500_000
MAX_LABEL = 512
MAX_TOKENS = 10_000
INDEX = "graph-metadata.json"

KINDS = {
    "cross layer transcoder": "feature",
    "mlp reconstruction error": "error",
    "embedding": "token",
    "logit": "logit",
}
"""Names of kinds of nodes, by the format's feature_type; other types are shown as features."""


class Listed(TypedDict):
    """A graph of a folder."""

    name: str
    prompt: str | None
    bytes: int
    at: float
    """Time of writing, in seconds since 1970."""


class Metadata(TypedDict):
    """The text above a graph."""

    slug: str
    scan: str
    prompt: str
    prompt_tokens: list[str]
    heads: list[CarriedEdge]
    """Edges with the heads that carry them, if the graph has this."""


class Grouping(TypedDict):
    """Nodes that the graph's maker pinned or grouped."""

    pinnedIds: list[str]
    supernodes: list[list[str]]


class ReadGraph(TypedDict):
    """A graph with the fields that pages use, of their types."""

    metadata: Metadata
    qParams: Grouping
    nodes: list[GraphNode]
    links: list[GraphLink]


class DescribedNode(TypedDict):
    """A node for tables."""

    node_id: str
    kind: str
    """`feature`, `error`, `token` or `logit`."""
    layer: int
    """−1 for tokens."""
    index: int | None
    """The number of a feature in its layer."""
    ctx_idx: int
    clerp: str
    influence: float | None
    activation: float | None
    token_prob: float | None


NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")


def listed(folder: Path | None) -> list[Listed]:
    """The graphs of a folder, the newest first, with the prompts in its index."""
    if folder is None or not folder.is_dir():
        return []
    prompts = _prompts(folder / INDEX)
    found: list[Listed] = []
    for path in folder.glob("*.json"):
        if path.name == INDEX or not NAME.fullmatch(path.stem):
            continue
        stat = path.stat()
        found.append({"name": path.stem, "prompt": prompts.get(path.stem), "bytes": stat.st_size, "at": stat.st_mtime})
    return sorted(found, key=lambda graph: graph["at"], reverse=True)[:500]


def _prompts(index: Path) -> dict[str, str]:
    """Prompts by slug; an index in another form is ignored."""
    try:
        if index.stat().st_size > MAX_BYTES:
            return {}
        graphs = json.loads(index.read_text(encoding="utf-8"))["graphs"]
        return {str(graph["slug"]): _text(graph.get("prompt"), 300) for graph in graphs}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def read_graph(folder: Path | None, name: str) -> ReadGraph:
    """Read and check one graph of a folder.

    Raises:
        NotFoundError: there is none of that name.
        BadRequestError: the file is not a graph, or too large.
    """
    if folder is None or not NAME.fullmatch(name) or not (folder / f"{name}.json").is_file():
        raise NotFoundError(f"there is no graph {name!r} in the folder of graphs")
    path = folder / f"{name}.json"
    if path.stat().st_size > MAX_BYTES:
        raise BadRequestError(f"{path.name} has {path.stat().st_size} bytes; graphs of {MAX_BYTES} at most are shown")
    try:
        return checked(json.loads(path.read_text(encoding="utf-8")), path.name)
    except (ValueError, RecursionError):
        raise BadRequestError(f"{path.name} is not JSON") from None


def checked(graph: object, name: str) -> ReadGraph:
    """The graph with the fields that pages use, of their types, with texts cut and without links to unknown nodes.

    Raises:
        BadRequestError: it is not a graph, or too large.
    """
    given = _object(graph)
    nodes, links = given.get("nodes"), given.get("links")
    if not isinstance(nodes, list) or not isinstance(links, list):
        raise BadRequestError(f"{name} is not an attribution graph: expected an object with nodes and links")
    if len(nodes) > MAX_NODES or len(links) > MAX_LINKS:
        raise BadRequestError(
            f"{name} has {len(nodes)} nodes and {len(links)} links; {MAX_NODES} and {MAX_LINKS} are shown: prune it"
        )
    metadata, parameters = _object(given.get("metadata")), _object(given.get("qParams"))
    kept = [node for raw in nodes if (node := _node(raw)) is not None]
    known = {node["node_id"] for node in kept}
    return {
        "metadata": {
            "slug": _text(metadata.get("slug"), 100),
            "scan": _text(metadata.get("scan"), 100),
            "prompt": _text(metadata.get("prompt"), 20_000),
            "prompt_tokens": [_text(token, 200) for token in _list(metadata.get("prompt_tokens"))[:MAX_TOKENS]],
            "heads": list(carried(_list(metadata.get("heads")), known)),
        },
        "qParams": {
            "pinnedIds": [one for one in map(str, _list(parameters.get("pinnedIds"))) if one in known],
            "supernodes": list(_supernodes(_list(parameters.get("supernodes")), known)),
        },
        "nodes": kept,
        "links": list(_links(links, known)),
    }


def _node(raw: object) -> GraphNode | None:
    """A node with the format's own fields, each of its type."""
    if not isinstance(raw, dict) or not isinstance(raw.get("node_id"), str) or len(raw["node_id"]) > 100:
        return None
    layer, position, feature = raw.get("layer"), raw.get("ctx_idx"), raw.get("feature")
    return {
        "node_id": raw["node_id"],
        "feature": feature if isinstance(feature, int) else None,
        "layer": str(layer) if str(layer) == "E" or re.fullmatch(r"\d{1,4}", str(layer), re.ASCII) else "0",
        "ctx_idx": position if isinstance(position, int) and 0 <= position < MAX_TOKENS else 0,
        "feature_type": _text(raw.get("feature_type"), 100),
        "token_prob": _number(raw.get("token_prob")),
        "is_target_logit": raw.get("is_target_logit") is True,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": _text(raw.get("jsNodeId"), 100),
        "clerp": _text(raw.get("clerp"), MAX_LABEL),
        "influence": _number(raw.get("influence")),
        "activation": _number(raw.get("activation")),
    }


def described(node: GraphNode) -> DescribedNode:
    """A node with its kind, its layer as a number (tokens: −1), and for a feature its number, which is part of its
    id."""
    kind = KINDS.get(node["feature_type"], "feature")
    place = re.fullmatch(r"(\d{1,4})_(\d{1,9})_(\d{1,6})", node["node_id"], re.ASCII)
    layer = -1 if node["layer"] == "E" else int(node["layer"])
    return {
        "node_id": node["node_id"],
        "kind": kind,
        "layer": layer,
        "index": int(place[2]) if place and kind == "feature" else None,
        "ctx_idx": node["ctx_idx"],
        "clerp": node["clerp"],
        "influence": node["influence"],
        "activation": node["activation"],
        "token_prob": node["token_prob"],
    }


def _links(raw: list[object], known: set[str]) -> Iterable[GraphLink]:
    for link in raw:
        if not isinstance(link, dict):
            continue
        source, target, weight = link.get("source"), link.get("target"), _number(link.get("weight"))
        if isinstance(source, str) and isinstance(target, str) and {source, target} <= known and weight is not None:
            yield {"source": source, "target": target, "weight": weight}


def _supernodes(raw: list[object], known: set[str]) -> Iterable[list[str]]:
    """Groups in the format: a name, then ids."""
    for group in raw[:200]:
        if isinstance(group, list) and group:
            members = [one for one in map(str, group[1:]) if one in known]
            if members:
                yield [_text(group[0], 100), *members]


def _object(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _text(value: object, length: int) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= length else text[:length] + "…"


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e300:
        return None
    return float(value)


def summary(graph: ReadGraph, n: int) -> dict[str, object]:
    """A graph as tables: the nodes of most influence, and the strongest links with their shares of the targets'
    inputs."""
    nodes = {node["node_id"]: described(node) for node in graph["nodes"]}
    received: dict[str, float] = {}
    for link in graph["links"]:
        received[link["target"]] = received.get(link["target"], 0.0) + abs(link["weight"])
    strongest = sorted(graph["links"], key=lambda link: -abs(link["weight"]))[:n]
    ranked = sorted(
        (node for node in nodes.values() if node["kind"] in ("feature", "logit")),
        key=lambda node: (node["kind"] != "logit", node["influence"] is None, node["influence"] or 0.0),
    )
    edges = [edge for edge in graph["metadata"]["heads"] if edge["heads"]]
    return {
        "heads": [{**edge, "from": nodes[edge["source"]], "to": nodes[edge["target"]]} for edge in edges[:n]],
        "n_nodes": len(nodes),
        "n_links": len(graph["links"]),
        "nodes": ranked[:n],
        "links": [
            {**link, "share": abs(link["weight"]) / received[link["target"]] if received[link["target"]] else None,
             "from": nodes[link["source"]], "to": nodes[link["target"]]}
            for link in strongest
        ],
    }  # fmt: skip
