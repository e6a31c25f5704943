"""Results of tests of an attribution graph, as stored in its file and in the catalog."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from interp.circuitlens.graph import Graph, Pruned
from interp.circuitlens.supernodes import Supernode
from interp.interventions.groups import GroupTests, Shares
from interp.interventions.groups import Tested as TestedGroup
from interp.interventions.validation import Tested, Validation
from storage.exchange.attribution_graph import GraphFile


class TestedNode(TypedDict):
    """The effect of switching a feature off on the graph's targets."""

    node_id: str
    predicted: float
    measured_frozen: float
    measured: float


class TestedEdge(TypedDict):
    """The effect of switching an edge's source off on its target."""

    source: str
    target: str
    weight: float
    predicted: float
    measured_frozen: float
    measured: float


class ValidationJson(TypedDict):
    """A graph's validation; see `interp.interventions.validation.Validation`."""

    target: float
    explained: float | None
    explained_predicted: float | None
    explained_random: float | None
    node_correlation: float | None
    edge_correlation: float | None
    edges_held: float | None
    random_effect: float | None
    nodes: list[TestedNode]
    random: list[TestedNode]
    edges: list[TestedEdge]


class SharesJson(TypedDict):
    """Necessity and sufficiency."""

    necessity: float
    sufficiency: float


class SupernodeJson(TypedDict):
    """A group of nodes; groups that were tested have results."""

    name: str
    node_ids: list[str]
    share: float
    """The share of all influence on the targets that its nodes have together."""
    effect: float
    """What its nodes together add to the targets' value, along all paths of the graph; negative if they lower it."""
    tested: dict[str, SharesJson] | None
    """The figures of the group (`group`), and of groups of equal size: `random`, `layer`, `top` and `effect`; see
    `interp.interventions.groups.Tested`."""


class SupernodesJson(TypedDict):
    """A graph's supernodes, and the results of testing them together."""

    groups: list[SupernodeJson]
    together: dict[str, SharesJson] | None
    """Results for all tested groups as one."""
    nothing: float | None
    """The sufficiency of no features at all: what is left when every feature is held at its mean."""
    target: float | None
    """The targets' value, summed with their weights; None: nothing was tested."""
    counterfactual: float | None
    """The targets' value on the counterfactual prompt; None: there is none."""
    counterfactual_prompt: str | None
    """The text of the counterfactual prompt."""


def validation_json(ids: Sequence[str], found: Validation) -> ValidationJson:
    """A validation, with nodes given by their ids."""
    return {
        "target": found.target,
        "explained": found.explained,
        "explained_predicted": found.explained_predicted,
        "explained_random": found.explained_random,
        "node_correlation": found.node_correlation,
        "edge_correlation": found.edge_correlation,
        "edges_held": found.edges_held,
        "random_effect": found.random_effect,
        "nodes": [_node(ids, one) for one in found.nodes],
        "random": [_node(ids, one) for one in found.random],
        "edges": [_edge(ids, one) for one in found.edges],
    }


def _node(ids: Sequence[str], one: Tested) -> TestedNode:
    return {
        "node_id": ids[one.source], "predicted": one.predicted, "measured_frozen": one.measured_frozen,
        "measured": one.measured,
    }  # fmt: skip


def _edge(ids: Sequence[str], one: Tested) -> TestedEdge:
    assert one.target is not None
    assert one.weight is not None
    return {
        "source": ids[one.source], "target": ids[one.target], "weight": one.weight, "predicted": one.predicted,
        "measured_frozen": one.measured_frozen, "measured": one.measured,
    }  # fmt: skip


def supernodes_json(
    ids: Sequence[str],
    groups: Sequence[Supernode],
    pruned: Pruned,
    tests: GroupTests | None,
    prompt: str | None,
) -> SupernodesJson:
    """Supernodes with nodes by their ids, those with the largest effect first; `prompt` is the counterfactual one."""
    tested = tests.each if tests else {}
    return {
        "groups": [
            {
                "name": group.name,
                "node_ids": [ids[node] for node in group.nodes],
                "share": float(pruned.share[list(group.nodes)].sum()),
                "effect": group.effect,
                "tested": _tested(tested[at]) if at in tested else None,
            }
            for at, group in enumerate(groups)
        ],
        "together": _tested(tests.together) if tests and tests.together else None,
        "nothing": tests.nothing if tests else None,
        "target": tests.target if tests else None,
        "counterfactual": tests.counterfactual if tests else None,
        "counterfactual_prompt": prompt,
    }


def _tested(of: TestedGroup) -> dict[str, SharesJson]:
    return {name: _shares(shares) for name, shares in of._asdict().items()}


def _shares(shares: Shares) -> SharesJson:
    return {"necessity": shares.necessity, "sufficiency": shares.sufficiency}


def with_tests(file: GraphFile, validation: ValidationJson | None, supernodes: SupernodesJson | None) -> GraphFile:
    """A graph's file with the results of tests; viewers also draw the supernodes."""
    metadata: dict[str, object] = {**file["metadata"]}
    parameters: Mapping[str, object] = file["qParams"]
    if validation is not None:
        metadata["validation"] = validation
    if supernodes is not None:
        metadata["supernodes"] = supernodes
        known = {node["node_id"] for node in file["nodes"]}
        drawn = [[one["name"], *(node for node in one["node_ids"] if node in known)] for one in supernodes["groups"]]
        parameters = {**parameters, "supernodes": [group for group in drawn if len(group) > 1]}
    return {**file, "metadata": metadata, "qParams": parameters}


def graph_shares(graph: Graph, pruned: Pruned, ids: Sequence[str]) -> dict[str, float]:
    """Each kept node's own share of all influence, by its id."""
    return {ids[at]: float(pruned.share[at]) for at in range(graph.n_nodes) if pruned.nodes[at]}
