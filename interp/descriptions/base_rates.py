"""How often a token stands somewhere in the corpus, to compare with how often it does where a feature fires."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Shaped

NEAR = 3
"""Tokens before the firing one among which a context is looked for where no attribution says which matter."""

Z95 = 1.959964


class BaseRates(NamedTuple):
    """Of the tokens of some rows of the corpus, how many are, follow or come soon after each token, by its text."""

    n: int
    """Tokens looked at: all but padding and BOS."""
    at: Mapping[str, int]
    """Those that are the token themselves; as many follow it immediately."""
    near: Mapping[str, int]
    """Those with the token among the `NEAR` before."""
    before: Mapping[str, int]
    """Those with the token anywhere in the text that is shown before the firing one."""


def base_rates(
    rows: Iterable[Shaped[np.ndarray, " n_pos"]], texts: Mapping[int, str], bos: int | None, window: int
) -> BaseRates:
    """Count tokens of rows by their text; `window` is how many tokens before the firing one are shown."""
    counts: tuple[Counter[str], Counter[str], Counter[str]] = (Counter(), Counter(), Counter())
    n = 0
    for row in rows:
        content = np.asarray(row[(row >= 0) & (row != (-1 if bos is None else bos))], np.int64)
        n += len(content)
        tokens, place = np.unique(content, return_inverse=True)
        reach = _until_next(content)
        sums = (np.bincount(place), *(np.bincount(place, np.minimum(reach, most)) for most in (NEAR, window)))
        for counter, total in zip(counts, sums, strict=True):
            for token, value in zip(tokens.tolist(), total.tolist(), strict=True):
                counter[texts[token]] += int(value)
    return BaseRates(n, *counts)


def _until_next(row: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """For each token, how many positions behind it come before its next occurrence, that one included, or the end."""
    order = np.lexsort((np.arange(len(row)), row))
    reach = len(row) - 1 - np.arange(len(row))
    same = row[order[1:]] == row[order[:-1]]
    reach[order[:-1][same]] = (order[1:] - order[:-1])[same]
    return reach


class Lift(NamedTuple):
    """How much more often something holds where a feature fires than elsewhere."""

    share: float
    """Of the feature's samples."""
    base_rate: float
    """Of the tokens of the corpus."""
    lift: float
    low: float
    """Lower end of the lift's 95% interval."""
    high: float


def lift(held: int, n: int, held_elsewhere: int, n_elsewhere: int) -> Lift:
    """Share over base rate, with Katz's interval of the logarithm; half a case is added to each count, so that what the
    corpus never shows has a bound too."""
    p, q = (held + 0.5) / (n + 0.5), (min(held_elsewhere, n_elsewhere) + 0.5) / (n_elsewhere + 0.5)
    variance = max(0.0, (1 - p) / (held + 0.5)) + max(0.0, (1 - q) / (held_elsewhere + 0.5))
    reach = float(np.exp(Z95 * np.sqrt(variance)))
    return Lift(held / n, min(held_elsewhere, n_elsewhere) / n_elsewhere, p / q, p / q / reach, p / q * reach)
