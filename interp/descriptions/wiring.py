"""The edges that are used on a corpus, in words: earlier features that fire together with a feature and drive it."""

from collections.abc import Sequence
from typing import NamedTuple

FEW_TOKENS = 100
"""An edge whose two features are active together at fewer tokens is shown with that number: its TWERA may be chance."""


class Wire(NamedTuple):
    """One edge from an earlier feature, ranked by TWERA."""

    layer: int
    feature: int
    """Number of the earlier feature."""
    n_coactive: int
    """Support of the edge: the number of tokens at which both features are active."""


def wired(wires: Sequence[Wire]) -> str:
    """Edges as English: `upstream L0/12, L1/55 (seen on 14 tokens)`. Nothing is in quotation marks, since no token is
    named."""
    rare = (f" (seen on {wire.n_coactive} tokens)" if wire.n_coactive < FEW_TOKENS else "" for wire in wires)
    return "upstream " + ", ".join(f"L{wire.layer}/{wire.feature}{few}" for wire, few in zip(wires, rare, strict=True))
