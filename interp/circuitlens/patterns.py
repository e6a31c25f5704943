"""Input patterns: the tokens that an activation came from, instead of the whole text (docs/methods.md, section 5)."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Integer

from interp.circuitlens.kinds import HEAD, TOKEN

GAP = "…"
"""Stands for tokens left out."""


def input_pattern(
    position: int,
    kind: Sequence[str],
    source: Integer[np.ndarray, " n"],
    score: Float[np.ndarray, " n"],
    *,
    min_share: float = 0.1,
    max_tokens: int = 8,
) -> list[int]:
    """The tokens that matter to an activation at `position`, in order, the firing token among them.

    A token counts by what heads bring from it to the activation and by its embedding's own contribution, summed over
    the activation's significant contributors (`kind`, `source` and `score`); it matters if it has `min_share` of all
    that. At most `max_tokens` are kept, the strongest.
    """
    counted = np.isin(np.asarray(kind, object), [HEAD, TOKEN]) & (score > 0) & (source <= position)
    totals = np.bincount(source[counted].astype(np.int64), score[counted], minlength=position + 1)
    strong = [s for s in np.argsort(-totals, kind="stable") if totals[s] >= min_share * totals.sum() and totals[s] > 0]
    others = [int(s) for s in strong if s != position][: max_tokens - 1]
    return sorted([*others, position])


def pattern_text(texts: Sequence[str], pattern: Sequence[int]) -> str:
    """A pattern as text: its tokens as they stand in the row, `…` where some are left out between them."""
    parts = [texts[pattern[0]].lstrip() if pattern else ""]
    for before, at in pairwise(pattern):
        parts.append(texts[at] if at == before + 1 else f" {GAP} {texts[at].lstrip()}")
    return "".join(parts)
