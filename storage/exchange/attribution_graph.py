"""Attribution graphs as circuit-tracer writes them, for its viewer and Neuronpedia's."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from interp.circuitlens.graph import Graph, Pruned, Scores, graph_scores, scores_of
from storage.foreign import read_json
from storage.store import whole_file

INDEX = "graph-metadata.json"
"""Beside the graphs: the list that viewers offer."""

MAX_INDEX_BYTES = 20_000_000
"""An index has what stands above a graph, its prompt above all: thousands of graphs."""

LABEL_LENGTH = 512
"""Characters of a description that Neuronpedia takes."""


class GraphNode(TypedDict):
    """A node, with the format's names: `clerp` is its label, `ctx_idx` its position."""

    node_id: str
    feature: int | None
    layer: str
    ctx_idx: int
    feature_type: str
    jsNodeId: str
    clerp: str
    influence: float | None
    activation: float | None
    token_prob: float | None
    is_target_logit: bool
    run_idx: int
    reverse_ctx_idx: int


class GraphLink(TypedDict):
    """An edge between the nodes of two ids."""

    source: str
    target: str
    weight: float


class GraphFile(TypedDict):
    """A graph as the format has it."""

    metadata: Mapping[str, object]
    qParams: Mapping[str, object]
    nodes: list[GraphNode]
    links: list[GraphLink]


class Provenance(NamedTuple):
    """What a graph's file says of how it was made."""

    slug: str
    """The graph's name."""
    scan: str
    """The model's name, as a slug."""
    prompt: str
    node_threshold: float
    edge_threshold: float
    version: str
    """Of Circuit Insights."""


def graph_json(
    graph: Graph,
    pruned: Pruned,
    made: Provenance,
    texts: Sequence[str],
    labels: Mapping[tuple[int, int], str],
) -> GraphFile:
    """A pruned graph as circuit-tracer writes it.

    `texts` are those of all tokens of the vocabulary, `labels` descriptions by (layer, feature).
    """
    node_ids = _node_ids(graph)
    nodes = _nodes(graph, pruned, node_ids, texts, labels)
    n_features, n_logits = graph.n_features, len(graph.logits)
    targets, sources = np.nonzero(pruned.edges)
    of_row = [*range(n_features), *range(graph.n_nodes - n_logits, graph.n_nodes)]
    weights = graph.edges[targets, sources].tolist()
    links: list[GraphLink] = [
        {"source": node_ids[source], "target": node_ids[of_row[target]], "weight": weight}
        for source, target, weight in zip(sources.tolist(), targets.tolist(), weights, strict=True)
    ]
    linked = {end for link in links for end in (link["source"], link["target"])}
    return {
        "metadata": {
            "slug": made.slug,
            "scan": made.scan,
            "transcoder_list": [],
            "prompt_tokens": [texts[token] for token in graph.tokens.tolist()],
            "prompt": made.prompt,
            "node_threshold": made.node_threshold,
            "schema_version": 1,
            "info": {"generator": {"name": "circuit-insights", "version": made.version}},
            "pruning_settings": {"node_threshold": made.node_threshold, "edge_threshold": made.edge_threshold},
            "scores": graph_scores(graph)._asdict(),
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [n for n in nodes if n["node_id"] in linked or n["feature_type"] in ("embedding", "logit")],
        "links": links,
    }


def whole_scores(graph: GraphFile) -> Scores:
    """What a graph of ours says that its scores were before it was pruned."""
    scores = graph["metadata"]["scores"]
    assert isinstance(scores, dict)
    return Scores(**scores)


def read_scores(graph: GraphFile) -> Scores:
    """Replacement and completeness score of a graph in this format, ours or another's, by the links that it has.

    A pruned graph lacks the weakest of them, so that its scores are not quite the whole graph's.

    Raises:
        ValueError: a link names a node that is not there, or a probability is missing.
    """
    kinds = {"embedding": 1, "logit": 2}
    nodes = sorted(graph["nodes"], key=lambda node: kinds.get(node["feature_type"], 0))
    place = {node["node_id"]: at for at, node in enumerate(nodes)}
    edges = np.zeros((len(nodes), len(nodes)), np.float32)
    try:
        for link in graph["links"]:
            edges[place[link["target"]], place[link["source"]]] = link["weight"]
        chances = np.array([node["token_prob"] for node in nodes if node["feature_type"] == "logit"], np.float32)
        if np.isnan(chances).any():
            raise ValueError("a logit has no probability")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the graph's links or probabilities are not as expected ({error!r})") from None
    of_kind = np.array([node["feature_type"] for node in nodes])
    return scores_of(
        edges,
        np.arange(len(nodes)),
        chances,
        of_kind == "mlp reconstruction error",
        of_kind == "embedding",
    )


def write_graph(path: Path, graph: GraphFile) -> None:
    """Write a graph, and enter it in the index of its folder in the place of one with the same slug.

    Raises:
        ValueError: the index there is not one.
    """
    index = path.parent / INDEX
    known = read_json(index, MAX_INDEX_BYTES) if index.is_file() else {"graphs": []}
    listed = known.get("graphs") if isinstance(known, dict) else None
    if not isinstance(known, dict) or not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise ValueError(f'{index}: expected {{"graphs": […]}}; name a folder of its own for the graph')
    others = [entry for entry in listed if entry.get("slug") != graph["metadata"]["slug"]]
    with whole_file(path) as partial:
        partial.write_text(json.dumps(graph, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with whole_file(index) as partial:
        known = {**known, "graphs": [*others, graph["metadata"]]}
        partial.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def cantor(layer: int, feature: int) -> int:
    """One number for a pair, as viewers number features."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def _node_ids(graph: Graph) -> list[str]:
    n_pos, last = len(graph.tokens), len(graph.tokens) - 1
    places = zip(graph.layer.tolist(), graph.feature.tolist(), graph.position.tolist(), strict=True)
    ids = [f"{layer}_{feature}_{position}" for layer, feature, position in places]
    ids += [f"0_{layer}_{position}" for layer in range(graph.n_layers) for position in range(n_pos)]
    ids = _distinct(ids, graph.n_features)
    ids += [f"E_{token}_{position}" for position, token in enumerate(graph.tokens.tolist())]
    return ids + [f"{graph.n_layers + 1}_{token}_{last}" for token in graph.logits.tolist()]


def _distinct(ids: list[str], n_features: int) -> list[str]:
    """Errors are named 0_layer_position, which feature `layer` of layer 0 may be too: then layer_-1_position."""
    taken = set(ids[:n_features])

    def other(name: str) -> str:
        _, layer, position = name.split("_")
        return f"{layer}_-1_{position}"

    return ids[:n_features] + [other(name) if name in taken else name for name in ids[n_features:]]


class _Place(TypedDict):
    """Where viewers draw a node, and by which name."""

    feature: int
    layer: str
    ctx_idx: int
    feature_type: str
    jsNodeId: str
    clerp: str


def _nodes(
    graph: Graph, pruned: Pruned, node_ids: list[str], texts: Sequence[str], labels: Mapping[tuple[int, int], str]
) -> list[GraphNode]:
    first_logit = graph.n_nodes - len(graph.logits)
    nodes: list[GraphNode] = []
    for at in np.nonzero(pruned.nodes)[0].tolist():
        node: GraphNode = {
            "token_prob": 0.0,
            "is_target_logit": False,
            "run_idx": 0,
            "reverse_ctx_idx": 0,
            "node_id": node_ids[at],
            "influence": float(pruned.influence[at]),
            "activation": None,
            **_place(graph, at, texts, labels),
        }
        if at < graph.n_features:
            node["activation"] = float(graph.activation[at])
        elif at >= first_logit:
            node["token_prob"], node["influence"] = float(graph.probability[at - first_logit]), None
            node["is_target_logit"] = at == first_logit
        nodes.append(node)
    return nodes


def _place(graph: Graph, at: int, texts: Sequence[str], labels: Mapping[tuple[int, int], str]) -> _Place:
    n_features, n_pos = graph.n_features, len(graph.tokens)
    first_token = n_features + graph.n_layers * n_pos
    first_logit = first_token + n_pos
    if at < n_features:
        layer, feature, position = int(graph.layer[at]), int(graph.feature[at]), int(graph.position[at])
        return {
            "feature": cantor(layer, feature), "layer": str(layer), "ctx_idx": position,
            "feature_type": "cross layer transcoder", "jsNodeId": f"{layer}_{feature}-0",
            "clerp": labels.get((layer, feature), "")[:LABEL_LENGTH],
        }  # fmt: skip
    if at < first_token:
        layer, position = divmod(at - n_features, n_pos)
        return {
            "feature": -1, "layer": str(layer), "ctx_idx": position, "feature_type": "mlp reconstruction error",
            "jsNodeId": f"{layer}_{position}-0", "clerp": f'Err: mlp "{texts[graph.tokens[position]]}"',
        }  # fmt: skip
    if at < first_logit:
        position = at - first_token
        token = int(graph.tokens[position])
        return {
            "feature": position, "layer": "E", "ctx_idx": position, "feature_type": "embedding",
            "jsNodeId": f"E_{token}-{position}", "clerp": f'Emb: "{texts[token]}"',
        }  # fmt: skip
    rank = at - first_logit
    token, probability = int(graph.logits[rank]), float(graph.probability[rank])
    return {
        "feature": token, "layer": str(graph.n_layers + 1), "ctx_idx": n_pos - 1, "feature_type": "logit",
        "jsNodeId": f"L_{token}-{n_pos - 1}", "clerp": f'Output "{texts[token]}" (p={probability:.3f})',
    }  # fmt: skip
