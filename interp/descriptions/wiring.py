"""The wiring that a corpus uses, in words: the earlier features that fire with a feature and drive it."""

from collections.abc import Sequence
from typing import NamedTuple

FEW_TOKENS = 100
"""An edge both of whose ends are active at fewer tokens is said with their number: its TWERA may be chance."""


class Wire(NamedTuple):
    """One edge from an earlier feature, by TWERA."""

    layer: int
    feature: int
    """The earlier feature."""
    n_coactive: int
    """Its support: tokens of the corpus at which both are active."""


def wired(wires: Sequence[Wire]) -> str:
    """Edges as English: `upstream L0/12, L1/55 (seen on 14 tokens)`. Nothing is quoted: no token fires the feature."""
    rare = (f" (seen on {wire.n_coactive} tokens)" if wire.n_coactive < FEW_TOKENS else "" for wire in wires)
    return "upstream " + ", ".join(f"L{wire.layer}/{wire.feature}{few}" for wire, few in zip(wires, rare, strict=True))
