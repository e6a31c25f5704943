"""How much the strongest edges depend on the choice of text: results from its halves and beginnings, compared."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.coactivation.sums import Strongest

SETTLED = 0.9
"""Edges have settled once this share of the whole text's edges is found."""

Ranking = list[list[tuple[int, int]]]
"""For each target, its sources (layer, feature), the strongest first."""


@dataclass(frozen=True)
class Stability:
    """Stability of one layer's edges, over some of its features as targets."""

    layer: int
    n_targets: int
    n_edges: int
    """Number of their edges that are reported on the whole text."""
    n_changed_rank: int
    """How many of these have another rank in the other half of the text; documents are assigned to halves
    alternately."""
    overlap_halves: float | None
    """Share of the edges of either half that both halves report; None where neither reports any."""
    overlap: list[float | None]
    """For each beginning of the text, the share of the whole text's edges that it reports."""
    settled: int | None
    """The shortest beginning from which on that share is at least `SETTLED`; None: only the whole text."""


def ranking(found: Strongest) -> Ranking:
    """The sources of each target, ordered by strength."""
    edges = found.edges()
    lists: Ranking = [[] for _ in range(len(found.strength))]
    for target, layer, feature in zip(*(column.tolist() for column in edges[:3]), strict=True):
        lists[target].append((layer, feature))
    return lists


def stability(layer: int, halves: tuple[Ranking, Ranking], beginnings: Sequence[Ranking]) -> Stability:
    """Compare the two halves, and the beginnings, the last of which is the whole text."""
    whole = beginnings[-1]
    changed = sum(
        _rank(edge, one) != _rank(edge, other)
        for edges, one, other in zip(whole, *halves, strict=True)
        for edge in edges
    )
    overlap = [_overlap(whole, found) for found in beginnings]
    settled = [at for at in range(len(overlap)) if all((share or 0) >= SETTLED for share in overlap[at:])]
    return Stability(
        layer=layer,
        n_targets=len(whole),
        n_edges=sum(map(len, whole)),
        n_changed_rank=changed,
        overlap_halves=_overlap(halves[0], halves[1], either=True),
        overlap=overlap,
        settled=settled[0] if settled and settled[0] < len(overlap) - 1 else None,
    )


def _rank(edge: tuple[int, int], ranked: list[tuple[int, int]]) -> int | None:
    return ranked.index(edge) if edge in ranked else None


def _overlap(expected: Ranking, found: Ranking, *, either: bool = False) -> float | None:
    pairs = [(set(a), set(b)) for a, b in zip(expected, found, strict=True)]
    common = sum(len(a & b) for a, b in pairs)
    n = sum(len(a | b) if either else len(a) for a, b in pairs)
    return common / n if n else None


def beginnings(n_rows: int) -> list[int]:
    """Numbers of rows, each twice the one before, up to all of them."""
    return sorted({max(1, n_rows >> shift) for shift in range(7)} if n_rows else {0})


def chosen(chances: np.ndarray, alive: np.ndarray, n: int) -> np.ndarray:
    """The `n` active features with the smallest random numbers, in order."""
    candidates = np.flatnonzero(alive)
    return np.sort(candidates[np.argsort(chances[candidates], kind="stable")[:n]])
