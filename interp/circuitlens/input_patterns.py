"""Input patterns: the tokens that caused an activation, instead of the whole text (docs/methods.md, section 5)."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Integer

from interp.circuitlens.kinds import HEAD, TOKEN

GAP = "…"
"""The sign for tokens that are left out."""


def strongest_sources(
    kind: Sequence[str],
    source: Integer[np.ndarray, " n"],
    score: Float[np.ndarray, " n"],
    *,
    min_share: float = 0.1,
    most: int = 8,
) -> list[int]:
    """The positions that an activation came from, the strongest first; among equals, the later one first.

    The weight of a token is what heads move from it to the activation plus the contribution of its own embedding,
    summed over the activation's significant contributors (`kind`, `source` and `score`). A token counts if it has
    `min_share` of the total. At most `most` are kept.
    """
    counted = np.isin(np.asarray(kind, object), [HEAD, TOKEN]) & (source >= 0)
    totals = np.bincount(source[counted].astype(np.int64), score[counted])
    totals[totals <= 0] = 0
    order = np.lexsort((-np.arange(len(totals)), -totals))
    return [int(at) for at in order if totals[at] > 0 and totals[at] >= min_share * totals.sum()][:most]


def input_pattern(
    position: int,
    kind: Sequence[str],
    source: Integer[np.ndarray, " n"],
    score: Float[np.ndarray, " n"],
    *,
    min_share: float = 0.1,
    max_tokens: int = 8,
) -> list[int]:
    """The tokens that matter to an activation at `position`, in order, including the firing token.

    These are its strongest sources (see `strongest_sources`), at most `max_tokens` with the firing token.
    """
    strong = strongest_sources(kind, source, score, min_share=min_share, most=max_tokens)
    others = [at for at in strong if at != position][: max_tokens - 1]
    return sorted([*others, position])


def pattern_text(texts: Sequence[str], pattern: Sequence[int]) -> str:
    """A pattern as text: its tokens in the order of the row, with `…` where tokens between them are left out."""
    parts = [texts[pattern[0]].lstrip() if pattern else ""]
    for before, at in pairwise(pattern):
        parts.append(texts[at] if at == before + 1 else f" {GAP} {texts[at].lstrip()}")
    return "".join(parts)
