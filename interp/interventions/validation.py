"""Whether an attribution graph holds in the model: its strongest nodes and edges are ablated in the model itself.

A node is a feature at a position. It is switched off there, and the effect on the graph's targets is compared with the
effect that the graph predicts. An edge is tested at its target: its source is switched off, and the change of what the
target reads is compared with what all paths of the graph from source to target carry. For comparison, as many other
active features of equal activation are switched off: only then could the test fail.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from interp.circuitlens.graph import Graph, Pruned
from interp.interventions.at_rest import AtRest
from interp.interventions.effects import Effects, correlation, effects_of, matched, switched_off
from interp.interventions.readings import FeatureReading, Reading
from interp.interventions.running import SteerableModel


class ValidationSettings(NamedTuple):
    """How much of a graph is tested."""

    nodes: int = 20
    """Nodes tested: features at positions, those of most influence first."""
    edges: int = 40
    """Edges tested: from features to features or targets, the strongest first."""
    draws: int = 5
    """Sets of random features that are switched off together."""
    seed: int = 0
    """Seed of these draws."""


class Tested(NamedTuple):
    """A node or an edge, and the effect on its target of switching it (for an edge, its source) off."""

    source: int
    """The node, by its number in the graph."""
    target: int | None
    """The node that the edge leads to. None for a tested node, whose effect is measured on the graph's targets, summed
    with their weights."""
    weight: float | None
    """Weight of the edge."""
    predicted: float
    """The change along all paths of the graph."""
    measured_frozen: float
    """The change in the model with the attention patterns and norm scales of the prompt."""
    measured: float
    """The change in the model with nothing frozen."""

    @property
    def holds(self) -> bool:
        """Whether the model changes by at least half of the prediction, in the same direction."""
        return self.measured * self.predicted > 0 and abs(self.measured) >= abs(self.predicted) / 2


class Validation(NamedTuple):
    """Results of testing a graph."""

    nodes: tuple[Tested, ...]
    random: tuple[Tested, ...]
    """Random features of equal activation that are not among these."""
    edges: tuple[Tested, ...]
    target: float
    """The targets' value in the unchanged model, by their weights: logits minus their mean, or the readings asked
    for."""
    explained: float | None
    """The share of it that is lost when all tested nodes are switched off together; None: the value is 0."""
    explained_predicted: float | None
    """The same share as the graph predicts it."""
    explained_random: float | None
    """The same share for as many random features of equal activation, the mean over draws; None: there are none."""

    @property
    def node_correlation(self) -> float | None:
        """Correlation of predicted and measured effects of nodes on the targets; None for fewer than three."""
        return _correlation(self.nodes)

    @property
    def edge_correlation(self) -> float | None:
        """Correlation of predicted and measured effects of edges; None for fewer than three."""
        return _correlation(self.edges)

    @property
    def edges_held(self) -> float | None:
        """The share of tested edges that hold; None: none was tested."""
        return sum(edge.holds for edge in self.edges) / len(self.edges) if self.edges else None

    @property
    def random_effect(self) -> float | None:
        """The mean size of random features' measured effects over that of tested nodes; None: there are none of one of
        them."""
        sizes = [np.mean([abs(one.measured) for one in some]) if some else 0.0 for some in (self.random, self.nodes)]
        return float(sizes[0] / sizes[1]) if self.random and sizes[1] else None


def _correlation(tested: Sequence[Tested]) -> float | None:
    pairs = torch.tensor([(one.predicted, one.measured) for one in tested]).reshape(-1, 2)
    return correlation(pairs[:, 0], pairs[:, 1])


class Ablated(NamedTuple):
    """A graph together with the model that it is of."""

    rest: AtRest
    steerable: SteerableModel
    graph: Graph
    pruned: Pruned
    readings: Sequence[Reading]
    """The graph's targets."""

    def place(self, node: int) -> tuple[int, int, int]:
        """A feature's (layer, feature, position)."""
        graph = self.graph
        return int(graph.layer[node]), int(graph.feature[node]), int(graph.position[node])

    def strongest(self, n: int) -> Int64[Tensor, " n"]:
        """The kept features, those of most influence first."""
        kept = np.nonzero(self.pruned.nodes[: self.graph.n_features])[0]
        return torch.from_numpy(kept[np.argsort(-self.pruned.share[kept], kind="stable")][:n])

    @property
    def weight(self) -> Float[Tensor, " n_ends"]:
        """Weight of each target, on the model's device; they sum to 1."""
        weight = torch.from_numpy(self.graph.ends.weight)
        return (weight / weight.sum()).to(self.steerable.device)


def validated(of: Ablated, settings: ValidationSettings) -> Validation:
    """Test the strongest nodes and edges of a graph. Memory: what `effects_of` takes."""
    strong = of.strongest(settings.nodes)
    activation = torch.from_numpy(of.graph.activation)
    draws = [matched(activation, strong, settings.seed + draw) for draw in range(settings.draws)]
    edges = strongest_edges(of.graph, of.pruned, settings.edges)
    others: list[int] = draws[0].tolist() if draws else []
    alone: list[int] = sorted({*strong.tolist(), *others, *(source for source, _ in edges)})
    together = [strong, *(draw for draw in draws if len(draw))]
    first_end = of.graph.n_nodes - of.graph.n_ends
    read = sorted({target for _, target in edges if target < first_end})
    readings: list[Reading] = [*of.readings, *(FeatureReading(*of.place(node)) for node in read)]
    changes = [switched_off([of.place(node)]) for node in alone]
    changes += [switched_off([of.place(node) for node in group.tolist()]) for group in together]
    found = effects_of(of.rest, of.steerable, changes, readings)
    row = {node: at for at, node in enumerate(alone)}
    column = {node: of.graph.n_ends + at for at, node in enumerate(read)}
    column |= {first_end + at: at for at in range(of.graph.n_ends)}
    on_targets = _on_targets(found, of)
    value = float(found.before[: of.graph.n_ends] @ of.weight)
    sums = on_targets[len(alone) :] / -value if value else None
    return Validation(
        nodes=tuple(Tested(node, None, None, *on_targets[row[node]].tolist()) for node in strong.tolist()),
        random=tuple(Tested(node, None, None, *on_targets[row[node]].tolist()) for node in others),
        edges=tuple(_edge(found, of.graph, edge, (row[edge[0]], column[edge[1]])) for edge in edges),
        target=value,
        explained=None if sums is None else float(sums[0, 2]),
        explained_predicted=None if sums is None else float(sums[0, 0]),
        explained_random=None if sums is None or len(sums) < 2 else float(sums[1:, 2].mean()),
    )


def _on_targets(found: Effects, of: Ablated) -> Float[Tensor, "n 3"]:
    """Predicted, frozen and measured effects on the targets together."""
    parts = (found.predicted, found.measured_frozen, found.measured)
    return torch.stack([part[:, : of.graph.n_ends] @ of.weight for part in parts], 1)


def _edge(found: Effects, graph: Graph, edge: tuple[int, int], at: tuple[int, int]) -> Tested:
    source, target = edge
    row = target if target < graph.n_features else target - (graph.n_nodes - graph.n_ends) + graph.n_features
    figures = (float(part[at]) for part in (found.predicted, found.measured_frozen, found.measured))
    return Tested(source, target, float(graph.edges[row, source]), *figures)


def strongest_edges(graph: Graph, pruned: Pruned, n: int) -> list[tuple[int, int]]:
    """The kept edges from features, as (source, target) nodes, those that carry the most influence first."""
    rows, sources = np.nonzero(pruned.edges[:, : graph.n_features])
    targets = graph.node_of_row[rows]
    wanted, at = np.unique(rows, return_inverse=True)
    inputs = np.array([np.abs(graph.edges[row]).sum() for row in wanted]).clip(1e-10)
    score = np.abs(graph.edges[rows, sources]) / inputs[at] * pruned.share[targets]
    order = np.argsort(-score, kind="stable")[:n]
    return list(zip(sources[order].tolist(), targets[order].tolist(), strict=True))
