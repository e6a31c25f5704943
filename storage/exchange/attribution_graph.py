"""Attribution graphs as circuit-tracer writes them, for its viewer and Neuronpedia's."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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


def graph_json(
    graph: Graph,
    pruned: Pruned,
    *,
    slug: str,
    scan: str,
    prompt: str,
    texts: Sequence[str],
    labels: Mapping[tuple[int, int], str],
    node_threshold: float,
    edge_threshold: float,
    version: str,
) -> dict[str, Any]:
    """A pruned graph. `texts` are those of all tokens of the vocabulary, `labels` descriptions by (layer, feature)."""
    node_ids = _node_ids(graph)
    nodes = _nodes(graph, pruned, node_ids, texts, labels)
    n_features, n_logits = graph.n_features, len(graph.logits)
    targets, sources = np.nonzero(pruned.edges)
    of_row = [*range(n_features), *range(graph.n_nodes - n_logits, graph.n_nodes)]
    weights = graph.edges[targets, sources].tolist()
    links = [
        {"source": node_ids[source], "target": node_ids[of_row[target]], "weight": weight}
        for source, target, weight in zip(sources.tolist(), targets.tolist(), weights, strict=True)
    ]
    linked = {link[end] for link in links for end in ("source", "target")}
    return {
        "metadata": {
            "slug": slug,
            "scan": scan,
            "transcoder_list": [],
            "prompt_tokens": [texts[token] for token in graph.tokens.tolist()],
            "prompt": prompt,
            "node_threshold": node_threshold,
            "schema_version": 1,
            "info": {"generator": {"name": "circuit-insights", "version": version}},
            "pruning_settings": {"node_threshold": node_threshold, "edge_threshold": edge_threshold},
            "scores": graph_scores(graph)._asdict(),
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [n for n in nodes if n["node_id"] in linked or n["feature_type"] in ("embedding", "logit")],
        "links": links,
    }


def read_scores(graph: dict[str, Any]) -> Scores:
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
        chances = [float(node["token_prob"]) for node in nodes if node["feature_type"] == "logit"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the graph's links or probabilities are not as expected ({error!r})") from None
    of_kind = np.array([node["feature_type"] for node in nodes])
    return scores_of(
        edges,
        np.arange(len(nodes)),
        np.array(chances, np.float32),
        of_kind == "mlp reconstruction error",
        of_kind == "embedding",
    )


def write_graph(path: Path, graph: dict[str, Any]) -> None:
    """Write a graph, and enter it in the index of its folder in the place of one with the same slug.

    Raises:
        ValueError: the index there is not one.
    """
    index = path.parent / INDEX
    known: Any = {"graphs": []}
    if index.is_file():
        known = read_json(index, MAX_INDEX_BYTES)
        try:
            others = [entry for entry in known["graphs"] if entry.get("slug") != graph["metadata"]["slug"]]
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f'{index}: expected {{"graphs": […]}}; name a folder of its own for the graph') from None
    else:
        others = []
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


def _nodes(
    graph: Graph,
    pruned: Pruned,
    node_ids: list[str],
    texts: Sequence[str],
    labels: Mapping[tuple[int, int], str],
) -> list[dict[str, Any]]:
    n_features, n_pos = graph.n_features, len(graph.tokens)
    first_token = n_features + graph.n_layers * n_pos
    first_logit = first_token + n_pos
    nodes = []
    for at in np.nonzero(pruned.nodes)[0].tolist():
        node: dict[str, Any] = {"node_id": node_ids[at], "influence": float(pruned.influence[at]), "activation": None}
        if at < n_features:
            layer, feature, position = int(graph.layer[at]), int(graph.feature[at]), int(graph.position[at])
            node |= {
                "feature": cantor(layer, feature), "layer": str(layer), "ctx_idx": position,
                "feature_type": "cross layer transcoder", "jsNodeId": f"{layer}_{feature}-0",
                "clerp": labels.get((layer, feature), "")[:LABEL_LENGTH], "activation": float(graph.activation[at]),
            }  # fmt: skip
        elif at < first_token:
            layer, position = divmod(at - n_features, n_pos)
            node |= {
                "feature": -1, "layer": str(layer), "ctx_idx": position, "feature_type": "mlp reconstruction error",
                "jsNodeId": f"{layer}_{position}-0", "clerp": f'Err: mlp "{texts[graph.tokens[position]]}"',
            }  # fmt: skip
        elif at < first_logit:
            position = at - first_token
            token = int(graph.tokens[position])
            node |= {
                "feature": position, "layer": "E", "ctx_idx": position, "feature_type": "embedding",
                "jsNodeId": f"E_{token}-{position}", "clerp": f'Emb: "{texts[token]}"',
            }  # fmt: skip
        else:
            rank = at - first_logit
            token, probability = int(graph.logits[rank]), float(graph.probability[rank])
            node |= {
                "feature": token, "layer": str(graph.n_layers + 1), "ctx_idx": n_pos - 1, "feature_type": "logit",
                "jsNodeId": f"L_{token}-{n_pos - 1}", "clerp": f'Output "{texts[token]}" (p={probability:.3f})',
                "token_prob": probability, "is_target_logit": rank == 0, "influence": None,
            }  # fmt: skip
        nodes.append({"token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0, **node})
    return nodes
