"""Small drawings as numbers, from which templates make SVG with attributes only, since pages may not contain styles."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class Bar(NamedTuple):
    """One bar, in a box of 100 by 100 with its origin at the upper left."""

    x: float
    width: float
    y: float
    height: float


def histogram(edges: Sequence[float] | None) -> list[Bar]:
    """Bars of equal area between quantile edges, so that their heights are densities."""
    if not edges or len(edges) < 2 or edges[-1] <= edges[0]:
        return []
    low, high = edges[0], edges[-1]
    least = (high - low) / 500
    widths = [max(right - left, least) for left, right in pairwise(edges)]
    top = max(1 / width for width in widths)
    return [
        Bar(100 * (left - low) / (high - low), 100 * width / (high - low), 100 - 100 / width / top, 100 / width / top)
        for left, width in zip(edges, widths, strict=False)
    ]


def strip(counts: Sequence[float]) -> list[Bar]:
    """Bars of equal width, with heights in proportion to the counts."""
    top = max(counts, default=0)
    if top <= 0:
        return []
    width = 100 / len(counts)
    return [Bar(at * width, width * 0.9, 100 - 100 * count / top, 100 * count / top) for at, count in enumerate(counts)]


def dots(value: float, low: float, high: float) -> float:
    """The position of a value between two others, in percent, clipped."""
    if not math.isfinite(value) or high <= low:
        return 0.0
    return min(100.0, max(0.0, 100 * (value - low) / (high - low)))
