"""The attribution graph of a prompt."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from circuit_insights.store import Store
from explorer.card import graph_html
from flows.attribute import (
    Asked,
    GraphFile,
    GraphLink,
    GraphNode,
    SupernodesJson,
    ValidationJson,
    Wanted,
    attribution,
    save_graph,
    whole_scores,
)
from interp.circuitlens.graph import GraphSettings
from interp.circuitlens.supernodes import SupernodeSettings
from interp.interventions.validation import ValidationSettings

if TYPE_CHECKING:
    import networkx

Test = Literal["validate", "supernodes"] | ValidationSettings | SupernodeSettings

SHOWN = 12
"""The nodes or links of a graph, as a table."""


class Graph:
    """An attribution graph in circuit-tracer's format: nodes (features, errors, tokens, logits) and weighted links."""

    def __init__(self, data: GraphFile) -> None:
        self.data = data
        """The content of the file, as its viewers read it."""

    def __repr__(self) -> str:
        return f"<Graph of {self.prompt!r}: {len(self.nodes)} nodes, {len(self.links)} links>"

    def _repr_html_(self) -> str:
        return graph_html(self.data, SHOWN)

    @property
    def prompt(self) -> str:
        """The prompt that was attributed."""
        return str(self.data["metadata"]["prompt"])

    @property
    def scores(self) -> dict[str, float]:
        """Replacement and completeness score of the whole graph, before it was pruned."""
        return whole_scores(self.data)._asdict()

    @property
    def validation(self) -> ValidationJson:
        """Results of testing the strongest nodes and edges in the model."""
        found = self.data["metadata"].get("validation")
        if found is None:
            raise ValueError("the graph was not tested; attribute with tests=['validate']")
        return cast(ValidationJson, found)

    @property
    def supernodes(self) -> SupernodesJson:
        """Groups of nodes with the same role, and how necessary and sufficient they are for the targets.

        Raises:
            ValueError: the graph was made without the test "supernodes".
        """
        found = self.data["metadata"].get("supernodes")
        if found is None:
            raise ValueError("nodes were not grouped; attribute with tests=['supernodes']")
        return cast(SupernodesJson, found)

    @property
    def nodes(self) -> list[GraphNode]:
        """The nodes, each with its `node_id`, `layer`, `ctx_idx` (position), `feature_type`, `clerp` (description) …"""
        return self.data["nodes"]

    @property
    def links(self) -> list[GraphLink]:
        """The links: `source` and `target` are ids of nodes, `weight` is the contribution of the source to the
        target."""
        return self.data["links"]

    def to_networkx(self) -> "networkx.DiGraph":
        """The graph as a networkx DiGraph, with the file's fields of nodes and links as attributes."""
        import networkx

        graph = networkx.DiGraph(None, **self.data["metadata"])
        graph.add_nodes_from((node["node_id"], node) for node in self.nodes)
        graph.add_weighted_edges_from((link["source"], link["target"], link["weight"]) for link in self.links)
        return graph

    def save(self, path: str | Path) -> None:
        """Write NAME.json, which viewers can open, and add it to the index of its folder.

        Raises:
            ValueError: viewers do not accept the name, or the file in the index's place is not an index.
        """
        save_graph(Path(path), self.data)


def attribute(
    store: Store,
    prompt: str | tuple[str, str],
    *,
    targets: str | Sequence[str] = (),
    settings: GraphSettings | None = None,
    tests: Sequence[Test] = (),
    chat: bool = False,
) -> Graph:
    """The attribution graph of a prompt, as the command `attribute` writes it.

    `targets` are what is explained, written as for `intervene`: a token (" Paris", or "#ID"), two as "A|B" for the
    difference of their logits, "feature:12/345", "direction:FILE.npy", each with "@POSITIONS" ("@3", "@2:5", "@1,4")
    for positions other than the last; "@3" alone means the most probable tokens there. None: the most probable next
    tokens. Among several targets, named ones have equal weight, and probable tokens are weighted by probability.

    `tests` are made in the model, each named or given by its settings: "validate" tests the strongest nodes and edges
    (see `Graph.validation`), "supernodes" groups nodes and tests the groups (see `Graph.supernodes`). A pair of prompts
    is the prompt and a counterfactual one, with as many tokens and another answer: the sufficiency of supernodes is
    measured against it.

    Raises:
        ValueError: the prompt is empty or too long, a target or test does not exist, or a setting is out of range.
    """
    text, counterfactual = (prompt, None) if isinstance(prompt, str) else prompt
    asked = Asked(text, (targets,) if isinstance(targets, str) else tuple(targets), chat, counterfactual)
    chosen = [_test(one) for one in tests]
    wanted = Wanted(
        settings or GraphSettings(),
        next((one for one in chosen if isinstance(one, ValidationSettings)), None),
        next((one for one in chosen if isinstance(one, SupernodeSettings)), None),
    )
    return Graph(attribution(store.opened(), asked, wanted).file)


def _test(test: Test) -> ValidationSettings | SupernodeSettings:
    if not isinstance(test, str):
        return test
    if test not in ("validate", "supernodes"):
        raise ValueError(f"tests: {test!r}; expected 'validate' or 'supernodes'")
    return ValidationSettings() if test == "validate" else SupernodeSettings()
