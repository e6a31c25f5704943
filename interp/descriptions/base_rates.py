"""Base rates: how often a token or context occurs in the corpus, to compare with how often it occurs where a feature
fires."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from interp.descriptions.kinds import Kind, members

NEAR = 3
"""Without an attribution of the causes, a context is looked for among this many tokens before the firing one."""

Z95 = 1.959964


@dataclass(frozen=True, eq=False)
class BaseRates:
    """Counts over some rows of the corpus: for each token's text, how often it occurs, and how many tokens come after
    it or near it."""

    n: int
    """Number of tokens counted: all but padding and BOS."""
    at: Mapping[str, int]
    """Occurrences of each token. Just as many tokens come right after it, and right before it."""
    near: Mapping[str, int] = field(default_factory=dict)
    """Tokens that have the given token among the `NEAR` tokens before them."""
    before: Mapping[str, int] = field(default_factory=dict)
    """Tokens that have the given token anywhere in the text shown before a firing token."""
    around: Mapping[str, int] = field(default_factory=dict)
    """Tokens that have the given token anywhere in the text shown around a firing token. This is an upper bound: a
    token between two close occurrences is counted for both."""
    within: Mapping[str, int] = field(default_factory=dict)
    """For each word that is written in several tokens, the number of tokens that are part of it."""
    line_starts: int = 0
    """Tokens with nothing but blanks before them on their line."""

    @cached_property
    def kinds(self) -> Mapping[Kind, Sequence[str]]:
        """The tokens of the corpus that belong to each kind."""
        return members(self.at)

    def of_kind(self, kind: Kind) -> Int64[np.ndarray, " n"]:
        """How often each token of a kind occurs, shape (number of its tokens,)."""
        return np.array([self.at[text] for text in self.kinds.get(kind, ())], np.int64)


def base_rates(
    rows: Iterable[Shaped[np.ndarray, " n_pos"]], texts: Mapping[int, str], bos: int | None, shown: tuple[int, int]
) -> BaseRates:
    """Count the tokens of some rows by their text. `shown` is the number of tokens shown before and after a firing
    token."""
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
    """For each position, the number of later positions up to and with the token's next occurrence, or up to the end."""
    order = np.lexsort((np.arange(len(row)), row))
    reach = len(row) - 1 - np.arange(len(row))
    same = row[order[1:]] == row[order[:-1]]
    reach[order[:-1][same]] = (order[1:] - order[:-1])[same]
    return reach


def _joined(first: str, second: str) -> bool:
    """Whether the second token continues the word that the first one ends with."""
    before, after = first[-1:], second[:1]
    return (before.isalnum() or before == "_") and (after.isalnum() or after == "_")


def goes_on(tokens: Sequence[str], at: int) -> bool:
    """Whether the word at the end of the token at `at` continues in the next token."""
    return at + 1 < len(tokens) and _joined(tokens[at], tokens[at + 1])


def split_words(tokens: Sequence[str]) -> Iterable[tuple[int, int]]:
    """Words that are written in several tokens, as (first token, one past the last token)."""
    first = 0
    for at in range(1, len(tokens) + 1):
        if at == len(tokens) or not _joined(tokens[at - 1], tokens[at]):
            if at - first > 1:
                yield first, at
            first = at


def word_around(tokens: Sequence[str], at: int) -> str | None:
    """The word that a token is a part of; None where the token is the whole word, or not part of a word."""
    first, last = at, at + 1
    while first and _joined(tokens[first - 1], tokens[first]):
        first -= 1
    while last < len(tokens) and _joined(tokens[last - 1], tokens[last]):
        last += 1
    return "".join(tokens[first:last]).strip() if last - first > 1 else None


def starts_of_lines(tokens: Sequence[str]) -> Bool[np.ndarray, " n"]:
    """For each token, whether it is the first on its line that is not blank."""
    found = np.zeros(len(tokens), bool)
    is_start = False
    for at, token in enumerate(tokens):
        line = token.rsplit("\n", 1)[-1]
        is_blank = not line.strip()
        found[at] = is_start and not is_blank and "\n" not in token
        is_start = is_blank and (is_start or "\n" in token)
    return found


def starts_line(tokens: Sequence[str], at: int) -> bool:
    """Whether one token is the first on its line that is not blank."""
    if "\n" in tokens[at] or not tokens[at].strip():
        return False
    for token in reversed(tokens[:at]):
        if token.rsplit("\n", 1)[-1].strip():
            return False
        if "\n" in token:
            return True
    return False


class Lift(NamedTuple):
    """How much more often something occurs where a feature fires than elsewhere in the corpus."""

    share: float
    """Share of the feature's samples in which it occurs."""
    base_rate: float
    """Share of the corpus' tokens at which it occurs."""
    lift: float
    low: float
    """Lower end of the lift's 95% interval."""
    high: float


def lift(held: int, n: int, held_elsewhere: int, n_elsewhere: int) -> Lift:
    """The share divided by the base rate, with Katz's 95% interval for a ratio of proportions (on the logarithm). Half
    a case is added to each count, so that the interval is finite even for what never occurs in the corpus."""
    p, q = (held + 0.5) / (n + 0.5), (min(held_elsewhere, n_elsewhere) + 0.5) / (n_elsewhere + 0.5)
    variance = max(0.0, (1 - p) / (held + 0.5)) + max(0.0, (1 - q) / (held_elsewhere + 0.5))
    reach = float(np.exp(Z95 * np.sqrt(variance)))
    return Lift(held / n, min(held_elsewhere, n_elsewhere) / n_elsewhere, p / q, p / q / reach, p / q * reach)
