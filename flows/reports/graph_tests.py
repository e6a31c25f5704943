"""The results of testing an attribution graph, as a report."""

from collections.abc import Iterator
from typing import cast

from flows.reports.tables import Table
from interp.display import visible
from storage.exchange.attribution_graph import GraphFile
from storage.exchange.graph_tests import SupernodesJson, ValidationJson

SHOWN_EDGES = 12
"""Number of tested nodes and edges that are shown; the file has all."""

LABEL = 40
"""Characters of a description that are shown."""


def tests_of(graph: GraphFile) -> Iterator[Table | str]:
    """Tables and sentences; none for a graph that was not tested."""
    metadata = graph["metadata"]
    if "validation" in metadata:
        yield from _validation(cast(ValidationJson, metadata["validation"]), graph)
    if "supernodes" in metadata:
        yield from _supernodes(cast(SupernodesJson, metadata["supernodes"]))


def _validation(found: ValidationJson, graph: GraphFile) -> Iterator[Table | str]:
    label = {node["node_id"]: node["clerp"] for node in graph["nodes"]}
    table = Table("source", "target", "weight", "predicted", "measured, frozen", "measured", title="Edges, tested")
    for edge in found["edges"][:SHOWN_EDGES]:
        ends = (f"{node} {visible(label.get(node, ''))[:LABEL]}".rstrip() for node in (edge["source"], edge["target"]))
        figures = (edge["weight"], edge["predicted"], edge["measured_frozen"], edge["measured"])
        table.add_row(*ends, *(f"{value:+.3g}" for value in figures))
    yield table
    n_nodes, n_edges = len(found["nodes"]), len(found["edges"])
    yield (
        f"{n_edges} edges: correlation of predicted and measured {_figure(found['edge_correlation'])}, "
        f"{_percent(found['edges_held'])} hold (at least half of the predicted effect, with its sign)"
    )
    yield (
        f"{n_nodes} nodes: correlation {_figure(found['node_correlation'])}; a random feature of equal activation has "
        f"{_percent(found['random_effect'])} of the effect of one of them"
    )
    yield (
        f"all {n_nodes} switched off, {_percent(found['explained'])} of the target's {found['target']:.3g} is lost "
        f"(predicted {_percent(found['explained_predicted'])}; as many random features of equal activation: "
        f"{_percent(found['explained_random'])})"
    )


def _supernodes(found: SupernodesJson) -> Iterator[Table | str]:
    names = ("group", "random", "layer", "top", "effect")
    shown = ("its own", "random", "layer", "most influence", "most effect")
    table = Table(
        "supernode", "nodes", "predicted", *(f"necessity: {one}" for one in shown),
        *(f"sufficiency: {one}" for one in shown), title="Supernodes, compared with groups of the same size",
    )  # fmt: skip
    for group in found["groups"]:
        if group["tested"] is not None:
            tested = group["tested"]
            cells = [_percent(tested[name][figure]) for figure in ("necessity", "sufficiency") for name in names]
            table.add_row(
                visible(group["name"]),
                str(len(group["node_ids"])),
                _percent(_predicted(group["effect"], found)),
                *cells,
            )
    if found["together"] is not None:
        cells = [_percent(found["together"][name][figure]) for figure in ("necessity", "sufficiency") for name in names]
        together = [group for group in found["groups"] if group["tested"] is not None]
        n_nodes, effect = sum(len(one["node_ids"]) for one in together), sum(one["effect"] for one in together)
        table.add_row("all of these", str(n_nodes), _percent(_predicted(effect, found)), *cells)
    yield table
    rest = sum(group["tested"] is None for group in found["groups"])
    against = sum(group["effect"] * (found["target"] or 0) < 0 for group in found["groups"])
    yield f"{rest} more groups were not tested; {against} of all act against the target"
    if found["counterfactual"] is None:
        yield f"with every feature at its mean {_percent(found['nothing'])} of the target is left"
    else:
        yield f"the target is {found['target']:.3g}, on the counterfactual prompt {found['counterfactual']:.3g}"


def _predicted(effect: float, found: SupernodesJson) -> float | None:
    return effect / found["target"] if found["target"] else None


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0%}"
