"""Supernodes: groups of features of a graph with the same role, by their neighbours in the graph and by their
descriptions."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from interp.circuitlens.graph import Graph, Pruned

NAME_TERMS = 3
"""Largest number of terms in a supernode's name."""

FARTHEST = 2.0
"""Distance between a feature that raises the targets' value and one that lowers it."""

NAME_LENGTH = 60
"""Characters of a description used as the name of a supernode whose members share no term."""


class SupernodeSettings(NamedTuple):
    """How nodes are grouped, and how groups are tested."""

    nodes: int = 60
    """Number of features that are grouped: those with the largest effect on the targets, in either direction."""
    similarity: float = 0.25
    """Two groups are joined if the mean similarity of their members is at least this."""
    of_descriptions: float = 0.5
    """Weight of the similarity of descriptions, where both nodes have one; the rest is that of attribution profiles."""
    tested: int = 8
    """Groups whose necessity and sufficiency are measured, of those that raise the targets' value: the ones with the
    largest effect."""
    draws: int = 5
    """Random groups of equal size for each of them."""
    seed: int = 0
    """Seed of the random groups."""


class Supernode(NamedTuple):
    """Nodes that are grouped together."""

    name: str
    nodes: tuple[int, ...]
    """Indices of its features in the graph, those with the largest effect on the targets first."""
    effect: float
    """What its features add to the targets' value together, along all paths of the graph; negative if they lower it."""


def supernodes(
    graph: Graph, pruned: Pruned, labels: Mapping[tuple[int, int], str], settings: SupernodeSettings
) -> list[Supernode]:
    """Group the kept features with the largest effect on a graph's targets.

    Groups have at least two members; the ones with the largest effect come first, and a feature that is similar to no
    other is in no group. Groups are merged while the mean similarity of their members is large enough (average
    linkage). Features that raise the targets' value and features that lower it are never in one group.
    """
    effect = effects_on_targets(graph)
    kept = np.nonzero(pruned.nodes[: graph.n_features])[0]
    kept = np.sort(kept[np.argsort(-np.abs(effect[kept]), kind="stable")][: settings.nodes])
    if len(kept) < 2:
        return []
    said = [labels.get((int(graph.layer[node]), int(graph.feature[node])), "") for node in kept]
    terms = [terms_of(text) for text in said]
    alike = similarity(profiles(graph, pruned, kept), term_vectors(terms), settings.of_descriptions)
    raises = effect[kept] > 0
    distance = np.where(raises[:, None] == raises, 1 - alike, FARTHEST)
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average")
    label = fcluster(tree, 1 - settings.similarity, "distance")
    groups = [np.nonzero(label == one)[0] for one in np.unique(label)]
    groups = [group[np.argsort(-np.abs(effect[kept[group]]), kind="stable")] for group in groups if len(group) > 1]
    groups.sort(key=lambda group: -abs(float(effect[kept[group]].sum())))
    rarity = rarities(terms)
    found = [(_name([terms[at] for at in group], [said[at] for at in group], rarity), group) for group in groups]
    names = distinct([name or f"{graph.layer[kept[g[0]]]}/{graph.feature[kept[g[0]]]}" for name, g in found])
    return [
        Supernode(name, tuple(kept[group].tolist()), float(effect[kept[group]].sum()))
        for name, (_, group) in zip(names, found, strict=True)
    ]


def effects_on_targets(graph: Graph) -> Float[np.ndarray, " n_features"]:
    """What each feature adds to the value of a graph's targets, by their weights, along all paths through features.

    Influence sums the sizes of paths; here paths of opposite sign cancel.
    """
    n = graph.n_features
    passing = graph.ends.weight / graph.ends.weight.sum() @ graph.edges[n:, :n]
    total = passing.astype(np.float64)
    for _ in range(graph.n_layers):
        passing = (passing / graph.activation) @ graph.edges[:n, :n]
        total += passing
    return total


def profiles(graph: Graph, pruned: Pruned, nodes: Int64[np.ndarray, " n"]) -> Float[np.ndarray, "n d"]:
    """Attribution profiles: the kept edges from nodes below and to nodes above, each side of length 1, or 0 without
    edges."""
    below = np.where(pruned.edges[nodes], graph.edges[nodes], 0)
    above = np.where(pruned.edges[:, nodes], graph.edges[:, nodes], 0).T
    return np.concatenate([_unit(below), _unit(above)], 1) / math.sqrt(2)


def _unit(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-20)


def similarity(
    profile: Float[np.ndarray, "n d"], described: Float[np.ndarray, "n m"], weight: float
) -> Float[np.ndarray, "n n"]:
    """For each pair, the cosine similarity of profiles; where both are described, mixed with that of descriptions by
    `weight`."""
    by_profile = profile @ profile.T
    has = np.abs(described).sum(1) > 0
    share = weight * (has[:, None] & has)
    return (1 - share) * by_profile + share * (described @ described.T)


def terms_of(description: str) -> list[str]:
    """The terms of a description: its quoted words, or if there are none, its words of three letters or more."""
    quoted = re.findall(r"‘([^‘]*?)’(?=[\s,;.:)]|$)", description)
    return sorted({term.lower() for term in (quoted or re.findall(r"\w{3,}", description))})


def rarities(terms: Sequence[Sequence[str]]) -> dict[str, float]:
    """The weight of each term: the logarithm of the number of described nodes over the number of those that have it."""
    counts = Counter(term for some in terms for term in some)
    n = sum(bool(some) for some in terms)
    return {term: math.log((1 + n) / count) for term, count in counts.items()}


def term_vectors(terms: Sequence[Sequence[str]]) -> Float[np.ndarray, "n m"]:
    """Each node's terms as a vector of length 1, weighted by rarity; 0 without terms."""
    rarity = rarities(terms)
    place = {term: at for at, term in enumerate(rarity)}
    vectors = np.zeros((len(terms), max(1, len(place))))
    for row, some in enumerate(terms):
        for term in some:
            vectors[row, place[term]] = rarity[term]
    return _unit(vectors)


def _name(terms: Sequence[Sequence[str]], said: Sequence[str], rarity: Mapping[str, float]) -> str:
    """The name of a group: the terms that at least half of its described members share, by weight; otherwise the
    description of its strongest member that has one."""
    counts = Counter(term for some in terms for term in some)
    least = max(2, math.ceil(sum(bool(some) for some in terms) / 2))
    shared = sorted((term for term, n in counts.items() if n >= least), key=lambda t: (-counts[t] * rarity[t], t))
    return ", ".join(shared[:NAME_TERMS]) or next((text for text in said if text), "")[:NAME_LENGTH]


def distinct(names: Sequence[str]) -> list[str]:
    """The same names, with a number where one occurs again."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found
