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
"""The list of graphs in a folder, which viewers offer."""

MAX_INDEX_BYTES = 20_000_000
"""Limit for an index, in bytes. An entry repeats a graph's metadata, mainly its prompt, so this allows thousands."""

TESTS = ("validation", "supernodes", "heads")
"""What a graph's metadata say of its tests, left out of the index."""

LABEL_LENGTH = 512
"""Longest description that Neuronpedia accepts, in characters."""


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
    """An edge between two nodes, given by their ids."""

    source: str
    target: str
    weight: float


class GraphFile(TypedDict):
    """A graph in the format."""

    metadata: Mapping[str, object]
    qParams: Mapping[str, object]
    nodes: list[GraphNode]
    links: list[GraphLink]


class Explained(NamedTuple):
    """A target of a graph, as shown in its file."""

    name: str
    token: int
    """The token of a logit. For other targets it is a number after the vocabulary, as in circuit-tracer."""
    probability: float
    """Probability of that token; 1 for other targets."""
    position: int


class Provenance(NamedTuple):
    """How a graph was made, as stated in its file."""

    slug: str
    """The graph's name."""
    scan: str
    """The model's name, as a slug."""
    prompt: str
    targets: tuple[Explained, ...]
    """The targets, in the graph's order."""
    node_threshold: float
    edge_threshold: float
    version: str
    """Version of Circuit Insights."""


def graph_json(
    graph: Graph,
    pruned: Pruned,
    made: Provenance,
    texts: Sequence[str],
    labels: Mapping[tuple[int, int], str],
) -> GraphFile:
    """A pruned graph in circuit-tracer's format.

    `texts` are those of all tokens of the vocabulary, `labels` descriptions by (layer, feature).
    """
    ids = node_ids(graph, made.targets)
    nodes = _nodes(graph, pruned, (ids, made.targets), texts, labels)
    targets, sources = np.nonzero(pruned.edges)
    of_row = graph.node_of_row.tolist()
    weights = graph.edges[targets, sources].tolist()
    links: list[GraphLink] = [
        {"source": ids[source], "target": ids[of_row[target]], "weight": weight}
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
            "targets": [
                {"node_id": node_id, "name": one.name, "weight": weight}
                for node_id, one, weight in zip(
                    ids[-graph.n_ends :], made.targets, graph.ends.weight.tolist(), strict=True
                )
            ],
            "node_threshold": made.node_threshold,
            "schema_version": 1,
            "info": {"generator": {"name": "circuit-insights", "version": made.version}},
            "pruning_settings": {"node_threshold": made.node_threshold, "edge_threshold": made.edge_threshold},
            "scores": graph_scores(graph)._asdict(),
            **({} if graph.cut is None else {"cut": graph.cut._asdict()}),
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [n for n in nodes if n["node_id"] in linked or n["feature_type"] in ("embedding", "logit")],
        "links": links,
    }


def whole_scores(graph: GraphFile) -> Scores:
    """The scores of a graph before it was pruned, from the file of a graph made here."""
    scores = graph["metadata"]["scores"]
    assert isinstance(scores, dict)
    return Scores(**scores)


def read_scores(graph: GraphFile) -> Scores:
    """Replacement and completeness score of any graph in this format, computed from its links.

    A pruned graph lacks the weakest links, so its scores differ slightly from those of the whole graph.

    Raises:
        ValueError: a link names a node that does not exist, or a probability is missing.
    """
    kinds = {"embedding": 1, "logit": 2}
    nodes = sorted(graph["nodes"], key=lambda node: kinds.get(node["feature_type"], 0))
    place = {node["node_id"]: at for at, node in enumerate(nodes)}
    edges = np.zeros((len(nodes), len(nodes)), np.float32)
    try:
        for link in graph["links"]:
            edges[place[link["target"]], place[link["source"]]] = link["weight"]
        targets = graph["metadata"].get("targets")
        weights = {one["node_id"]: one["weight"] for one in targets} if isinstance(targets, list) else {}
        ends = [node for node in nodes if node["feature_type"] == "logit"]
        chances = np.array([weights.get(node["node_id"], node["token_prob"]) for node in ends], np.float32)
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
    """Write a graph and add it to the index of its folder, replacing one with the same slug.

    Raises:
        ValueError: the file in the index's place is not an index.
    """
    index = path.parent / INDEX
    known = read_json(index, MAX_INDEX_BYTES) if index.is_file() else {"graphs": []}
    listed = known.get("graphs") if isinstance(known, dict) else None
    if not isinstance(known, dict) or not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise ValueError(f'{index}: expected {{"graphs": […]}}; name a separate folder for the graph')
    others = [entry for entry in listed if entry.get("slug") != graph["metadata"]["slug"]]
    with whole_file(path) as partial:
        partial.write_text(json.dumps(graph, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with whole_file(index) as partial:
        entry = {name: value for name, value in graph["metadata"].items() if name not in TESTS}
        known = {**known, "graphs": [*others, entry]}
        partial.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def cantor(layer: int, feature: int) -> int:
    """A single number for a pair, as viewers number features (Cantor pairing)."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def node_ids(graph: Graph, explained: Sequence[Explained]) -> list[str]:
    """Ids in the format that circuit-tracer has used since July 2026, unique in a graph; before, errors were
    0_layer_position."""
    n_pos = len(graph.tokens)
    places = zip(graph.layer.tolist(), graph.feature.tolist(), graph.position.tolist(), strict=True)
    ids = [f"{layer}_{feature}_{position}" for layer, feature, position in places]
    ids += [f"{layer}_-1_{position}" for layer in range(graph.n_layers) for position in range(n_pos)]
    ids += [f"E_{token}_{position}" for position, token in enumerate(graph.tokens.tolist())]
    return ids + [f"{graph.n_layers + 1}_{one.token}_{one.position}" for one in explained]


class _Place(TypedDict):
    """Where viewers draw a node, and under which name."""

    feature: int
    layer: str
    ctx_idx: int
    feature_type: str
    jsNodeId: str
    reverse_ctx_idx: int
    clerp: str


def _nodes(
    graph: Graph,
    pruned: Pruned,
    named: tuple[list[str], Sequence[Explained]],
    texts: Sequence[str],
    labels: Mapping[tuple[int, int], str],
) -> list[GraphNode]:
    ids, explained = named
    first_end = graph.n_nodes - graph.n_ends
    nodes: list[GraphNode] = []
    for at in np.nonzero(pruned.nodes)[0].tolist():
        is_end = at >= first_end
        place = _end(graph, explained, at - first_end, texts) if is_end else _place(graph, at, texts, labels)
        node: GraphNode = {
            "token_prob": 0.0,
            "is_target_logit": at == first_end,
            "run_idx": 0,
            "node_id": ids[at],
            "influence": None if is_end else float(pruned.influence[at]),
            "activation": float(graph.activation[at]) if at < graph.n_features else None,
            **place,
        }
        if is_end:
            node["token_prob"] = explained[at - first_end].probability
        nodes.append(node)
    return nodes


def _place(graph: Graph, at: int, texts: Sequence[str], labels: Mapping[tuple[int, int], str]) -> _Place:
    n_features, n_pos = graph.n_features, len(graph.tokens)
    first_token = n_features + graph.n_layers * n_pos
    if at < n_features:
        layer, feature, position = int(graph.layer[at]), int(graph.feature[at]), int(graph.position[at])
        back = n_pos - 1 - position
        return {
            "feature": cantor(layer, feature), "layer": str(layer), "ctx_idx": position, "reverse_ctx_idx": back,
            "feature_type": "cross layer transcoder", "jsNodeId": f"{layer}_{feature}-{back}",
            "clerp": labels.get((layer, feature), "")[:LABEL_LENGTH],
        }  # fmt: skip
    if at < first_token:
        layer, position = divmod(at - n_features, n_pos)
        back = n_pos - 1 - position
        return {
            "feature": -1, "layer": str(layer), "ctx_idx": position, "feature_type": "mlp reconstruction error",
            "jsNodeId": f"{layer}_-1-{back}", "reverse_ctx_idx": back,
            "clerp": f'Err: mlp "{texts[graph.tokens[position]]}"',
        }  # fmt: skip
    position = at - first_token
    token = int(graph.tokens[position])
    return {
        "feature": position, "layer": "E", "ctx_idx": position, "feature_type": "embedding",
        "jsNodeId": f"E_{token}-{position}", "reverse_ctx_idx": n_pos - 1 - position,
        "clerp": f'Emb: "{texts[token]}"',
    }  # fmt: skip


def _end(graph: Graph, explained: Sequence[Explained], rank: int, texts: Sequence[str]) -> _Place:
    """A target: the logit of a token. Viewers have no other kind of target, so others get a token after the
    vocabulary."""
    one = explained[rank]
    is_token = one.token < len(texts)
    label = f'Output "{texts[one.token]}" (p={one.probability:.3f})' if is_token else one.name
    return {
        "feature": one.token, "layer": str(graph.n_layers + 1), "ctx_idx": one.position, "feature_type": "logit",
        "jsNodeId": f"L_{one.token}-{one.position}", "reverse_ctx_idx": len(graph.tokens) - 1 - one.position,
        "clerp": label[:LABEL_LENGTH],
    }  # fmt: skip
