"""How often something holds somewhere in the corpus, to compare with how often it does where a feature fires."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from interp.descriptions.kinds import Kind, members

NEAR = 3
"""Tokens before the firing one among which a context is looked for where no attribution says which matter."""

Z95 = 1.959964


@dataclass(frozen=True, eq=False)
class BaseRates:
    """Of the tokens of some rows of the corpus, how many are, follow or come soon after each token, by its text."""

    n: int
    """Tokens looked at: all but padding and BOS."""
    at: Mapping[str, int]
    """Those that are the token themselves; as many follow it immediately, and come immediately before it."""
    near: Mapping[str, int] = field(default_factory=dict)
    """Those with the token among the `NEAR` before."""
    before: Mapping[str, int] = field(default_factory=dict)
    """Those with the token anywhere in the text that is shown before the firing one."""
    around: Mapping[str, int] = field(default_factory=dict)
    """Those with the token anywhere in the text that is shown with the firing one, before or after it: at most, since
    what is before two that stand close together is counted for both."""
    within: Mapping[str, int] = field(default_factory=dict)
    """By a word that is written in several tokens, those that are part of it."""
    line_starts: int = 0
    """Those with nothing but blanks before them on their line."""

    @cached_property
    def kinds(self) -> Mapping[Kind, Sequence[str]]:
        """The tokens of each kind."""
        return members(self.at)

    def of_kind(self, kind: Kind) -> Int64[np.ndarray, " n"]:
        """How often each token of a kind occurs."""
        return np.array([self.at[text] for text in self.kinds.get(kind, ())], np.int64)


def base_rates(
    rows: Iterable[Shaped[np.ndarray, " n_pos"]], texts: Mapping[int, str], bos: int | None, shown: tuple[int, int]
) -> BaseRates:
    """Count tokens of rows by their text; `shown` is how many tokens before and after the firing one are."""
    counts: tuple[Counter[str], ...] = (Counter(), Counter(), Counter(), Counter())
    within: Counter[str] = Counter()
    n, n_starts = 0, 0
    before, after = shown
    for row in rows:
        content = np.asarray(row[(row >= 0) & (row != (-1 if bos is None else bos))], np.int64)
        n += len(content)
        tokens, place = np.unique(content, return_inverse=True)
        reach = _until_next(content)
        sums = [np.bincount(place), *(np.bincount(place, np.minimum(reach, most)) for most in (NEAR, before))]
        at = np.arange(len(content))
        behind = np.where(reach < len(content) - 1 - at, np.maximum(reach - after, 0), reach)
        sums.append(np.bincount(place, np.minimum(behind, before) + np.minimum(at, after)))
        for counter, total in zip(counts, sums, strict=True):
            for token, value in zip(tokens.tolist(), total.tolist(), strict=True):
                counter[texts[token]] += int(value)
        written = [texts[token] for token in content.tolist()]
        n_starts += int(starts_of_lines(written).sum())
        for first, last in split_words(written):
            within["".join(written[first:last]).strip()] += last - first
    return BaseRates(n, *counts, within, n_starts)


def _until_next(row: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """For each token, how many positions behind it come before its next occurrence, that one included, or the end."""
    order = np.lexsort((np.arange(len(row)), row))
    reach = len(row) - 1 - np.arange(len(row))
    same = row[order[1:]] == row[order[:-1]]
    reach[order[:-1][same]] = (order[1:] - order[:-1])[same]
    return reach


def _joined(first: str, second: str) -> bool:
    """Whether a token goes on with the word that the token before it ends with."""
    before, after = first[-1:], second[:1]
    return (before.isalnum() or before == "_") and (after.isalnum() or after == "_")


def goes_on(tokens: Sequence[str], at: int) -> bool:
    """Whether the word that a token ends with goes on in the next one."""
    return at + 1 < len(tokens) and _joined(tokens[at], tokens[at + 1])


def split_words(tokens: Sequence[str]) -> Iterable[tuple[int, int]]:
    """The words that are written in several tokens: first token, and the one behind the last."""
    first = 0
    for at in range(1, len(tokens) + 1):
        if at == len(tokens) or not _joined(tokens[at - 1], tokens[at]):
            if at - first > 1:
                yield first, at
            first = at


def word_around(tokens: Sequence[str], at: int) -> str | None:
    """The word that a token is part of; None where it is all of it, or part of none."""
    first, last = at, at + 1
    while first and _joined(tokens[first - 1], tokens[first]):
        first -= 1
    while last < len(tokens) and _joined(tokens[last - 1], tokens[last]):
        last += 1
    return "".join(tokens[first:last]).strip() if last - first > 1 else None


def starts_of_lines(tokens: Sequence[str]) -> Bool[np.ndarray, " n"]:
    """Which tokens have nothing but blanks before them on their line, and are not blank themselves."""
    found = np.zeros(len(tokens), bool)
    is_start = False
    for at, token in enumerate(tokens):
        line = token.rsplit("\n", 1)[-1]
        is_blank = not line.strip()
        found[at] = is_start and not is_blank and "\n" not in token
        is_start = is_blank and (is_start or "\n" in token)
    return found


def starts_line(tokens: Sequence[str], at: int) -> bool:
    """The same of one token."""
    if "\n" in tokens[at] or not tokens[at].strip():
        return False
    for token in reversed(tokens[:at]):
        if token.rsplit("\n", 1)[-1].strip():
            return False
        if "\n" in token:
            return True
    return False


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
