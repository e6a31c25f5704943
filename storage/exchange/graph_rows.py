"""Rows of the catalog's tables for graphs, from a graph's file."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, cast

from storage.exchange.attribution_graph import GraphFile, whole_scores
from storage.exchange.graph_heads import CarriedEdge, head_rows, pair_rows
from storage.exchange.graph_tests import SharesJson, SupernodesJson, ValidationJson

Row = dict[str, object]

KINDS = {"mlp reconstruction error": "error", "embedding": "token", "logit": "target"}
"""Kinds of nodes by the format's feature_type; other types are features."""

SCORES = (
    "explained", "explained_predicted", "explained_random", "node_correlation", "edge_correlation", "edges_held",
    "random_effect",
)  # fmt: skip

EFFECTS = ("predicted", "measured_frozen", "measured")


class GraphRows(NamedTuple):
    """The rows of one graph for each table."""

    graphs: Row
    graph_nodes: list[Row]
    graph_edges: list[Row]
    graph_supernodes: list[Row]
    graph_heads: list[Row]
    graph_head_pairs: list[Row]


class _Tests(NamedTuple):
    validation: ValidationJson | None
    groups: SupernodesJson | None


def graph_rows(file: GraphFile, shares: Mapping[str, float], d_vocab: int) -> GraphRows:
    """The rows of a graph made here, without the columns that identify it; `shares` are nodes' own shares of influence,
    by id."""
    metadata = file["metadata"]
    tests = _Tests(
        cast(ValidationJson | None, metadata.get("validation")), cast(SupernodesJson | None, metadata.get("supernodes"))
    )
    validation, groups = tests
    targets = cast(list[Mapping[str, object]], metadata["targets"])
    scores = whole_scores(file)
    graph: Row = {
        "prompt": metadata["prompt"],
        "targets": [one["name"] for one in targets],
        "n_tokens": len(cast(list[str], metadata["prompt_tokens"])),
        "n_nodes": len(file["nodes"]),
        "n_edges": len(file["links"]),
        "replacement": scores.replacement,
        "completeness": scores.completeness,
        "target_value": validation["target"] if validation else groups["target"] if groups else None,
        **{name: validation[name] if validation else None for name in SCORES},
        "nothing": groups["nothing"] if groups else None,
        "counterfactual": groups["counterfactual_prompt"] if groups else None,
        "counterfactual_value": groups["counterfactual"] if groups else None,
    }
    nodes, edges = list(_nodes(file, shares, d_vocab, tests)), list(_edges(file, validation))
    carried = cast(list[CarriedEdge], metadata.get("heads", []))
    supernodes = list(_groups(groups)) if groups else []
    return GraphRows(graph, nodes, edges, supernodes, list(head_rows(carried)), list(pair_rows(carried)))


def _nodes(file: GraphFile, shares: Mapping[str, float], d_vocab: int, tests: _Tests) -> Iterator[Row]:
    tested = {one["node_id"]: one for one in tests.validation["nodes"]} if tests.validation else {}
    groups = tests.groups["groups"] if tests.groups else []
    group_of = {node: at for at, one in enumerate(groups) for node in one["node_ids"]}
    for node in file["nodes"]:
        kind = KINDS.get(node["feature_type"], "feature")
        number = int(node["node_id"].split("_")[1])
        is_logit = kind == "target" and number < d_vocab
        its = tested.get(node["node_id"])
        yield {
            "node_id": node["node_id"],
            "kind": kind,
            "layer": int(node["layer"]) if kind in ("feature", "error") else None,
            "feature": number if kind == "feature" else None,
            "token_id": number if kind == "token" or is_logit else None,
            "position": node["ctx_idx"],
            "label": node["clerp"],
            "activation": node["activation"],
            "share": None if kind == "target" else shares[node["node_id"]],
            "probability": node["token_prob"] if is_logit else None,
            "supernode": group_of.get(node["node_id"]),
            **{name: its[name] if its else None for name in EFFECTS},
        }


def _edges(file: GraphFile, validation: ValidationJson | None) -> Iterator[Row]:
    tested = {(one["source"], one["target"]): one for one in validation["edges"]} if validation else {}
    for link in file["links"]:
        its = tested.get((link["source"], link["target"]))
        yield {**link, **{name: its[name] if its else None for name in EFFECTS}}


def _groups(groups: SupernodesJson) -> Iterator[Row]:
    for at, one in enumerate(groups["groups"]):
        figures = {"n_nodes": len(one["node_ids"]), "share": one["share"], "effect": one["effect"]}
        yield {"supernode": at, "name": one["name"], **figures, **_shares(one["tested"])}
    if groups["together"]:
        tested = [one for one in groups["groups"] if one["tested"]]
        figures = {
            "n_nodes": sum(len(one["node_ids"]) for one in tested),
            "share": sum(one["share"] for one in tested),
            "effect": sum(one["effect"] for one in tested),
        }
        yield {"supernode": -1, "name": None, **figures, **_shares(groups["together"])}


def _shares(tested: Mapping[str, SharesJson] | None) -> Row:
    row: Row = {}
    for name in ("group", "random", "layer", "top", "effect"):
        suffix = "" if name == "group" else f"_{name}"
        row["necessity" + suffix] = tested[name]["necessity"] if tested else None
        row["sufficiency" + suffix] = tested[name]["sufficiency"] if tested else None
    return row
