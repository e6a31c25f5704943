"""What a rule may say of where a feature fires (clauses), and how each clause is checked on samples and on the
corpus."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain
from math import log
from typing import Literal, NamedTuple

from interp.descriptions.base_rates import NEAR, BaseRates, Lift, goes_on, lift, starts_line, word_around
from interp.descriptions.english import ContextKind, Word
from interp.descriptions.evidence import ActivationExample
from interp.descriptions.kinds import Kind, members
from interp.descriptions.settings import RuleSettings
from interp.display import visible
from interp.weightlens.description import MIN_LEMMA_LETTERS, Group, group, token_of
from interp.weightlens.settings import WordingSettings

ClauseKind = Literal["token", "kind"] | ContextKind

MIN_DIFFERENT = 3
"""A kind of tokens is named only if the samples have at least this many different tokens of it."""

MIN_KIND_LIFT = 2.0
"""A kind is named only if the lower end of its lift's interval reaches this."""

MIN_SEEN = 0.5
"""A kind is named only if its tokens among the samples make up at least this share of the kind's occurrences in the
corpus: a feature that fires on ‘by’ and two rare prepositions does not fire on prepositions."""

VARIED = 0.5
"""A kind is named only if the samples are varied: they have at least this share of the number of different tokens that
as many random occurrences of the kind would have. Three capital letters again and again are better listed."""


@dataclass(frozen=True)
class Clause:
    """One statement about where the feature fires, with the tokens that make it true."""

    kind: ClauseKind
    names: tuple[Word, ...]
    """Words or kinds, as the description shows them."""
    tokens: frozenset[str]
    """Texts of tokens, or of words that are written in several tokens."""

    def holds(self, example: ActivationExample) -> bool:
        """Whether the statement is true of a sample."""
        return not self.tokens.isdisjoint(texts_seen(self.kind, example))

    def compared(self, examples: Sequence[ActivationExample], base: BaseRates) -> Lift:
        """How often it is true of the samples, compared with the tokens of the corpus."""
        elsewhere = sum(counts_of(self.kind, examples, base).get(text, 0) for text in self.tokens)
        return lift(sum(map(self.holds, examples)), len(examples), elsewhere, base.n)


LINE = "line"
"""The text that represents the start of a line, where other clauses have the text of a neighbouring token."""


def texts_seen(kind: ClauseKind, example: ActivationExample) -> Collection[str]:
    """The texts that a clause of this kind looks at in a sample, each once. Where CircuitLens has found the causes,
    only these are looked at."""
    tokens, at, causes = example.tokens, example.at, example.causes
    if kind in ("token", "kind"):
        return (tokens[at],)
    if kind == "right after":
        return (tokens[at - 1],) if at and (causes is None or at - 1 in causes) else ()
    if kind == "after":
        if causes is None:
            return set(tokens[max(0, at - NEAR) : at])
        return {tokens[place] for place in causes if place < at}
    if causes is not None:
        return ()
    if kind == "in":
        word = word_around(tokens, at)
        return () if word is None else (word,)
    if kind == "at the start of a line":
        return (LINE,) if starts_line(tokens, at) else ()
    if kind == "right before":
        return () if goes_on(tokens, at) else tokens[at + 1 : at + 2]
    return set(tokens[:at] + tokens[at + 1 :])


def counts_of(kind: ClauseKind, examples: Sequence[ActivationExample], base: BaseRates) -> Mapping[str, int]:
    """For each text, the number of tokens in the corpus for which a clause of this kind would hold."""
    if kind == "after":
        return base.near if examples[0].causes is None else base.before
    if kind == "at the start of a line":
        return {LINE: base.line_starts}
    return {"in": base.within, "in texts with": base.around}.get(kind, base.at)


class Counted:
    """The texts at which clauses of one kind look, over some samples: the number of samples with each text, and their
    activations."""

    def __init__(self, examples: Sequence[ActivationExample], kind: ClauseKind) -> None:
        self.rows = [texts_seen(kind, example) for example in examples]
        self.n_samples, self.total = len(examples), sum(example.activation for example in examples) or 1.0
        self.n = Counter(chain.from_iterable(self.rows))
        self._activation = [example.activation for example in examples]

    def held(self, texts: AbstractSet[str]) -> int:
        """Number of samples that have at least one of the texts."""
        return sum(not texts.isdisjoint(row) for row in self.rows)

    def mass(self, texts: AbstractSet[str]) -> float:
        """Summed activation of these samples."""
        return sum(a for row, a in zip(self.rows, self._activation, strict=True) if not texts.isdisjoint(row))


def kind_of(counted: Counted, base: BaseRates | None, least: float) -> tuple[Kind, frozenset[str]] | None:
    """The kind of tokens that describes the samples best, with all its tokens. It covers at least the share `least` of
    the samples and of their activation, is more frequent among them than in the corpus, and is as varied as there.
    None if a list of words is better."""
    if base is None or len(counted.n) < MIN_DIFFERENT:
        return None
    best, found = 0.0, None
    for kind, texts in members(counted.n).items():
        n = sum(counted.n[text] for text in texts)
        if len(texts) < MIN_DIFFERENT or n < least * counted.n_samples:
            continue
        mass = counted.mass(frozenset(texts))
        if len({text.casefold().removeprefix(" ") for text in texts}) < MIN_DIFFERENT or mass < least * counted.total:
            continue
        elsewhere = base.of_kind(kind)
        low = lift(n, counted.n_samples, int(elsewhere.sum()), base.n).low
        seen = sum(base.at.get(text, 0) for text in texts)
        if low < MIN_KIND_LIFT or seen < MIN_SEEN * elsewhere.sum():
            continue
        expected = float((1 - (1 - elsewhere / max(1, elsewhere.sum())) ** n).sum())
        score = mass / counted.total * log(low)
        if len(texts) >= VARIED * expected and score > best:
            best, found = score, (kind, frozenset(texts) | frozenset(base.kinds.get(kind, ())))
    return found


PLACES: tuple[ContextKind, ...] = ("in", "at the start of a line", "right after", "after")
"""Contexts before the firing token; at most one of these is named, the most informative."""

SURROUNDINGS: tuple[ContextKind, ...] = ("right before", "in texts with")
"""Contexts after or around the firing token; at most one of these is named as well."""

MIN_SURROUNDINGS = 0.5
"""Share of the samples that such a context needs to be named. It needs more than the others, since text after a token
cannot cause its activation, and text somewhere around it seldom does."""

MAX_WORDS = 3
"""Words named of one context."""

PART = 0.3
"""Share of the samples that a word needs to be named together with others."""

PART_IN = 0.1
"""The same share for words that contain the firing token, of which there are many."""


def contexts_of(
    examples: Sequence[ActivationExample], base: BaseRates | None, rule: RuleSettings, wording: WordingSettings
) -> list[Clause]:
    """The contexts that a description names: at most one that places the firing token, words that come earlier, and
    one context after or around it. Each holds for a good share of the samples, and more often there than at the tokens
    of the corpus."""
    if len(examples) < 2:
        return []
    found = []
    for kinds, least in ((PLACES, rule.min_context), (SURROUNDINGS, max(MIN_SURROUNDINGS, rule.min_context))):
        if kinds is SURROUNDINGS and base is None:
            continue
        places = [_Place(kind, examples, base) for kind in kinds]
        contexts = [_context(place, least, wording) for place in places]
        best = max(contexts, key=lambda context: -1.0 if context is None else context[1])
        if best is None:
            continue
        found.append(best[0])
        if kinds is PLACES and best[0].kind != "after" and base is not None:
            fires = {example.fires for example in examples}
            found += _further(places[PLACES.index("after")], best[0], fires, least, wording)
    return found


class _Place:
    """One kind of context, counted in the samples and in the corpus."""

    def __init__(self, kind: ContextKind, examples: Sequence[ActivationExample], base: BaseRates | None) -> None:
        self.kind: ContextKind = kind
        self.base = base
        self.counted = Counted(examples, kind)
        self._counts = {} if base is None else counts_of(kind, examples, base)

    def low(self, texts: AbstractSet[str]) -> float:
        """The lower end of the lift of some texts; 2 where there is no corpus to compare with."""
        if self.base is None:
            return 2.0
        elsewhere = sum(self._counts.get(text, 0) for text in texts)
        return lift(self.counted.held(texts), self.counted.n_samples, elsewhere, self.base.n).low


def _context(place: _Place, least: float, wording: WordingSettings) -> tuple[Clause, float] | None:
    """The words, or the kind of tokens, that a good share of the samples has in this context, and how informative that
    is: share of the samples times the logarithm of the lift. None if there are none."""
    kind, counted = place.kind, place.counted
    if sum(map(bool, counted.rows)) < least * counted.n_samples:
        return None
    parts = _parts(place, least, wording)
    tokens = frozenset(text for part in parts for text in part.texts)
    share = counted.held(tokens) / counted.n_samples
    names: tuple[Word, ...] = () if kind == "at the start of a line" else tuple(part.name for part in parts)
    if kind in ("right after", "right before") and (found := kind_of(counted, place.base, max(least, share))):
        names, tokens = (found[0],), found[1]
        share = counted.held(tokens) / counted.n_samples
    if not tokens or share < least:
        return None
    return Clause(kind, names, tokens), share * log(max(place.low(tokens), 1.0))


class _Part(NamedTuple):
    """The forms of one word."""

    name: str
    texts: frozenset[str]


def _parts(place: _Place, least: float, wording: WordingSettings) -> list[_Part]:
    """The words that are named: each occurs in its share of the samples, and more often there than in the corpus."""
    kind, counted = place.kind, place.counted
    if kind != "in":
        least = min(least, PART) if kind != "in texts with" else least
    n_least = (PART_IN if kind == "in" else least) * counted.n_samples
    few = n_least if kind in ("in", "in texts with") else min(2, n_least)
    texts = sorted((text for text, n in counted.n.items() if n >= few), key=lambda text: (-counted.n[text], text))
    if not texts:
        return []
    if kind in ("in", "at the start of a line"):
        parts = [_Part(visible(text), frozenset((text,))) for text in texts]
    else:
        groups = group([token_of(text) for text in texts], wording)
        parts = [
            _Part(one.name, frozenset(token.text for token in one.tokens))
            for one in groups
            if one.kind != "bytes" and (kind != "in texts with" or _tells(one))
        ]
    enough = [(part, counted.mass(part.texts)) for part in parts if counted.held(part.texts) >= n_least]
    enough.sort(key=lambda row: -row[1])
    return [part for part, _ in enough if place.low(part.texts) > 1][:MAX_WORDS]


def _further(
    before: _Place, said: Clause, fires: AbstractSet[str], least: float, wording: WordingSettings
) -> list[Clause]:
    """Words that come before the firing tokens, beside the context `said` that places these. Words that `said` names,
    pieces of them, and tokens that fire the feature themselves are left out."""
    within = [name.casefold() for name in said.names if isinstance(name, str)]
    parts = [
        part
        for part in _parts(before, least, wording)
        if part.texts.isdisjoint(said.tokens | fires)
        and not any(part.name.removeprefix("-").casefold() in word for word in within)
    ]
    tokens = frozenset(text for part in parts for text in part.texts)
    if not parts or before.counted.held(tokens) < least * before.counted.n_samples:
        return []
    return [Clause("after", tuple(part.name for part in parts), tokens)]


def _tells(part: Group) -> bool:
    """Whether a word can indicate what a text is about: signs and short words cannot."""
    return part.kind == "word" and len(part.tokens[0].folded) >= MIN_LEMMA_LETTERS and part.name.isalpha()
