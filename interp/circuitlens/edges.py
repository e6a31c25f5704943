"""The edges of an attribution graph while its nodes are searched for: whole rows if they fit into memory, otherwise the
strongest entries of each row."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from scipy import sparse
from torch import Tensor

MOST_STEPS = 1000
"""Largest number of steps along which influence is followed; longer paths need more layers than any model has."""

NUMBERS_AT_ONCE = 1 << 20
"""Number of entries that are copied at a time to be summed: 4 MB."""

ENTRY_BYTES = 8
"""Bytes of an edge that is stored with the number of its source."""

FINAL_BYTES = 24
"""Bytes of an entry of the finished graph's float32 matrix while it is pruned."""

LEAST_STRONGEST, LEAST_FEATURES = 64, 64
"""Smallest number of edges of a node, and of features, for which a graph is made."""


class Limits(NamedTuple):
    """How much of a graph fits into memory."""

    n_features: int
    """Number of features that are attributed."""
    n_strongest: int | None
    """Number of edges kept for each node, the strongest ones; None: all."""


def limits(n_wanted: int, n_sources: int, n_others: int, n_ends: int, max_bytes: float) -> Limits:
    """How much of a graph fits into `max_bytes`: half for edges during the search, half for the finished graph.

    `n_wanted` is the number of features to attribute, `n_sources` that of all active features, errors and tokens,
    `n_others` that of errors and tokens alone, `n_ends` that of targets.

    Raises:
        ValueError: not even a small graph fits.
    """
    half = max_bytes / 2
    least = FINAL_BYTES * (LEAST_FEATURES + n_ends) * (LEAST_FEATURES + n_others + n_ends)
    if half < least:
        raise ValueError(
            f"--max-memory is {max_bytes / 1e9:.3g} GB; a graph of {n_others:,} errors and tokens takes "
            f"{2 * least / 1e9:.3g} GB at least"
        )
    n_others = n_others + n_ends
    most = (np.sqrt((n_others - n_ends) ** 2 + 4 * half / FINAL_BYTES) - n_others - n_ends) / 2
    n_features = min(n_wanted, max(1, int(most)))
    n_rows = n_features + n_ends
    if 4 * n_rows * (n_sources + n_ends) <= half:
        return Limits(n_features, None)
    return Limits(n_features, max(LEAST_STRONGEST, int(half / ENTRY_BYTES / n_rows)))


class FoundEdges:
    """The rows of edges found so far, one for each node that they lead to."""

    def __init__(self, n_nodes: int, n_rows: int, n_strongest: int | None) -> None:
        self.n_nodes = n_nodes
        self.n_strongest = None if n_strongest is None or n_strongest >= n_nodes else n_strongest
        width = n_nodes if self.n_strongest is None else self.n_strongest
        self.rows = np.zeros((n_rows, width), np.float32)
        self.columns = None if self.n_strongest is None else np.zeros((n_rows, width), np.int32)
        """The source of each stored entry; None if whole rows are stored."""
        self.inputs = np.zeros(n_rows, np.float32)
        """For each row, the summed magnitudes of all its edges, including those that are not stored."""
        self.nodes = np.zeros(0, np.int64)
        """The node that each row found so far leads to."""

    def add(self, rows: Float[Tensor, "n n_nodes"], nodes: Int64[np.ndarray, " n"]) -> None:
        """Add the rows of some nodes."""
        here = slice(len(self.nodes), len(self.nodes) + len(nodes))
        absolute = rows.abs()
        self.inputs[here] = absolute.sum(1).cpu().numpy()
        if self.columns is None:
            self.rows[here] = rows.cpu().numpy()
        else:
            column = absolute.topk(self.rows.shape[1], 1).indices.sort(1).values
            self.columns[here] = column.cpu().numpy()
            self.rows[here] = rows.gather(1, column).cpu().numpy()
        self.nodes = np.concatenate([self.nodes, nodes])

    def influence(self, weight: Float32[np.ndarray, " n_ends"]) -> Float32[np.ndarray, " n_nodes"]:
        """The influence of every node on the targets, along the edges found so far."""
        n = len(self.nodes)
        if self.columns is None:
            return influence_of(self.rows[:n], self.nodes, weight)
        first = np.arange(n + 1) * self.rows.shape[1]
        entries = np.abs(self.rows[:n]).ravel() / self.inputs[:n].clip(1e-10).repeat(self.rows.shape[1])
        shares = sparse.csr_matrix((entries, self.columns[:n].ravel(), first), (n, self.n_nodes)).T
        total, passing = np.zeros(self.n_nodes, np.float32), np.zeros(self.n_nodes, np.float32)
        passing[-len(weight) :] = weight
        for _ in range(MOST_STEPS):
            passing = shares @ passing[self.nodes]
            if not passing.any():
                return total
            total += passing
        raise ValueError("the graph has a cycle: a feature seems to contribute to itself")

    def held(self, weight: Float32[np.ndarray, " n_ends"]) -> float:
        """The share of the nodes' inputs, weighted by their influence, that comes along stored edges."""
        if self.columns is None:
            return 1.0
        n = len(self.nodes)
        reached = self.influence(weight)
        reached[-len(weight) :] += weight
        of_row = reached[self.nodes].astype(np.float64)
        shares = np.abs(self.rows[:n]).sum(1, dtype=np.float64) / self.inputs[:n].clip(1e-10)
        return float((of_row * shares).sum() / of_row.sum()) if of_row.sum() else 1.0

    def among(
        self, order: Int64[np.ndarray, " n_rows"], kept: Int64[np.ndarray, " n_kept"]
    ) -> Float32[np.ndarray, "n_rows n_kept"]:
        """The rows in the given order, with only the nodes `kept` as sources; edges that are not stored are 0."""
        if self.columns is None:
            return self.rows[np.ix_(order, kept)]
        place = np.full(self.n_nodes, -1)
        place[kept] = np.arange(len(kept))
        dense = np.zeros((len(order), len(kept)), np.float32)
        for row, at in enumerate(order.tolist()):
            column = place[self.columns[at]]
            dense[row, column[column >= 0]] = self.rows[at][column >= 0]
        return dense


def influence_of(
    edges: Float32[np.ndarray, "n_rows n_nodes"],
    node_of_row: Int64[np.ndarray, " n_rows"],
    weight: Float32[np.ndarray, " n_ends"],
) -> Float32[np.ndarray, " n_nodes"]:
    """The influence of every node on the targets along paths of any length. Each node passes its influence on to its
    inputs in proportion to their contributions."""
    n_nodes = edges.shape[1]
    n_rows = max(1, NUMBERS_AT_ONCE // n_nodes)
    parts = [slice(at, at + n_rows) for at in range(0, len(edges), n_rows)]
    rows, of_row = torch.from_numpy(edges), torch.from_numpy(node_of_row)
    inputs = torch.cat([rows[part].abs().sum(1) for part in parts]).clamp(min=1e-10)
    total = torch.zeros(n_nodes)
    passing = total.clone()
    passing[-len(weight) :] = torch.from_numpy(weight)
    for _ in range(MOST_STEPS):
        shared, passing = passing[of_row] / inputs, torch.zeros_like(total)
        for part in parts:
            if shared[part].any():
                passing += shared[part] @ rows[part].abs()
        if not passing.any():
            return total.numpy()
        total += passing
    raise ValueError("the graph has a cycle: a feature seems to contribute to itself")
