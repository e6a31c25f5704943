"""The `tokens` explainer: evidence into a meaning by rule, said in English by `interp.descriptions.english`."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from interp.descriptions.base_rates import BaseRates, lift
from interp.descriptions.clauses import MIN_KIND_LIFT, Clause, Counted, contexts_of, kind_of
from interp.descriptions.english import (
    FREQUENCIES,
    LOOSE,
    STRONGEST,
    Context,
    Meaning,
    Mechanism,
    Word,
    meaning_of,
    text_of,
)
from interp.descriptions.evidence import ActivationExample, Evidence, strong
from interp.descriptions.kinds import Kind, members
from interp.descriptions.settings import RuleSettings
from interp.weightlens.description import Group, group, token_of
from interp.weightlens.settings import WordingSettings

WEAK = 0.5
"""A word is weak if the feature's greatest activation on it is below this part of its strong ones."""

MIN_OF_KIND = 0.4
"""Share of the samples and of their activation that a kind of tokens has to have to be named."""

MAX_WEAKER = 6
"""Weak words that are named of a way to fire."""

MAX_MECHANISMS = 4
"""Ways to fire that are told apart."""

MIN_PROMOTED = 5
"""Promoted tokens from which a kind of them is said."""

MAX_PROMOTED = 4
"""Words that are said to be promoted."""

EXAMPLES = 2
"""Words that are named before the kind that they are of."""


@dataclass(frozen=True)
class Named:
    """Firing tokens under one name."""

    word: Word
    tokens: frozenset[str]
    peak: float
    """The greatest activation on one of them; of a kind, the mean."""


def by_rule(evidence: Evidence, rule: RuleSettings, wording: WordingSettings) -> str | None:
    """One feature or cluster in words; None where the evidence says nothing."""
    meaning = Meaning(tuple(_mechanisms(evidence, rule, wording)), _promoted(evidence, wording))
    return text_of(meaning) or None


def joined(parts: Sequence[str], whole: Evidence, rule: RuleSettings, wording: WordingSettings) -> str | None:
    """The descriptions of a feature's clusters as one, with what holds for the whole feature; those that fire it
    strongly first."""
    alone = Mechanism(_names(whole.reads, wording))
    mechanisms = [_relaxed(one, alone, alone=True) for part in parts for one in meaning_of(part).mechanisms]
    promotes = [word for part in parts for word in meaning_of(part).promotes]
    own = replace(whole, moments=())
    mechanisms = sorted([*_mechanisms(own, rule, wording), *mechanisms], key=lambda mechanism: not mechanism.words)
    named = _promoted(whole, wording) or tuple(dict.fromkeys(promotes))[:MAX_PROMOTED]
    return text_of(Meaning(_without_repeats(mechanisms, rule), named)) or None


def _without_repeats(mechanisms: Iterable[Mechanism], rule: RuleSettings) -> tuple[Mechanism, ...]:
    """Each word once where no further context sets it apart: what was said to fire strongly is not said again, and of a
    context that it does not need, that it fires it most strongly. Ways to fire without a context are one."""
    kept: list[Mechanism] = []
    for one in mechanisms:
        kept = [_relaxed(earlier, one) for earlier in kept]
        words = tuple(word for word in one.words if not _is_said(word, one.contexts, kept))
        weaker = tuple(word for word in one.weaker if word not in words and not _is_said(word, (), kept))
        if not words and not weaker:
            continue
        alike = next((at for at, other in enumerate(kept) if at and not one.contexts and not other.contexts), None)
        if alike is None:
            kept.append(replace(one, words=words, weaker=weaker[:MAX_WEAKER]))
        else:
            words, weaker = kept[alike].words + words, kept[alike].weaker + weaker
            kept[alike] = replace(kept[alike], words=words[: rule.max_words], weaker=weaker[:MAX_WEAKER])
    return tuple(kept[:MAX_MECHANISMS])


def _relaxed(earlier: Mechanism, later: Mechanism, *, alone: bool = False) -> Mechanism:
    """A way to fire; where its words fire without a context that not nearly all of its samples have, or if `alone` are
    words that fire the feature with nothing else, that is said to be the context of the strongest activations."""
    places = _needed(later.contexts)
    if 2 * len(set(earlier.words) & set(later.words)) < len(earlier.words) or not places <= _places(earlier.contexts):
        return earlier
    contexts = []
    for one in earlier.contexts:
        is_needed = (one.kind, one.words) in places or not (one.frequency or alone)
        contexts.append(one if is_needed else replace(one, frequency=STRONGEST))
    return replace(earlier, contexts=tuple(contexts))


def _places(contexts: Sequence[Context]) -> set[tuple[str, tuple[Word, ...]]]:
    """Contexts, however often they are there."""
    return {(context.kind, context.words) for context in contexts}


def _needed(contexts: Sequence[Context]) -> set[tuple[str, tuple[Word, ...]]]:
    """Those without which most activations of a way to fire are not."""
    return _places([context for context in contexts if context.frequency not in LOOSE])


def _is_said(word: Word, contexts: Sequence[Context], kept: Sequence[Mechanism]) -> bool:
    """Whether a word, or a kind that it is of, was said with these contexts, and maybe others, before."""
    for one in kept:
        if not _needed(contexts) <= _places(one.contexts):
            continue
        said = (*one.words, *one.weaker)
        if word in said or (
            isinstance(word, str) and any(isinstance(kind, Kind) and kind.names(word) for kind in said)
        ):
            return True
    return False


def clauses(evidence: Evidence, rule: RuleSettings, wording: WordingSettings) -> list[Clause]:
    """What is said of where a feature or cluster fires, the strongest first; empty without samples."""
    if not evidence.moments:
        return []
    said = _said(_Samples(evidence.moments), evidence.base, rule, wording)
    found = [Clause("token" if isinstance(one.word, str) else "kind", (one.word,), one.tokens) for one in said.words]
    return [*found, *said.contexts]


def _mechanisms(evidence: Evidence, rule: RuleSettings, wording: WordingSettings) -> Iterable[Mechanism]:
    """The ways to fire: by the greatest activations, by what fires it alone, by samples of the whole range."""
    strongest = _fired(replace(evidence, moments=evidence.strongest), rule, wording)
    read = _names(evidence.reads, wording)[: rule.max_words]
    fired = _fired(evidence, rule, wording)
    if read and strongest is None and fired is not None and not fired.contexts:
        words = tuple(dict.fromkeys([*fired.words, *read]))[: 2 * rule.max_words]
        return [replace(fired, words=words, weaker=tuple(word for word in fired.weaker if word not in words))]
    alone = Mechanism(read)
    found = (strongest and _relaxed(strongest, alone, alone=True), alone if read else None, fired)
    return _without_repeats([one for one in found if one is not None], rule)


def _fired(evidence: Evidence, rule: RuleSettings, wording: WordingSettings) -> Mechanism | None:
    """How sampled activations fire: their words by strength, and the contexts that they share; None without any."""
    moments = evidence.moments
    if not moments:
        return None
    named, found = _said(_Samples(moments), evidence.base, rule, wording)
    level = evidence.strong or strong(moments)
    words = tuple(one.word for one in named if one.peak >= WEAK * level)
    weaker = tuple(one.word for one in named if one.peak < WEAK * level)
    contexts = tuple(_context(clause, moments) for clause in found)
    covered = coverage(frozenset(text for one in named for text in one.tokens), moments)
    many = covered < rule.many and any(not context.frequency for context in contexts)
    return Mechanism(words, weaker, contexts, many)


def _context(clause: Clause, moments: Sequence[ActivationExample]) -> Context:
    share = sum(map(clause.holds, moments)) / len(moments)
    frequency = next(said for least, said in FREQUENCIES if share >= least)
    assert clause.kind not in ("token", "kind")
    return Context(clause.kind, clause.names, frequency)


def coverage(tokens: AbstractSet[str], moments: Sequence[ActivationExample]) -> float:
    """The share of the activation that some tokens have."""
    total = sum(moment.activation for moment in moments)
    return sum(moment.activation for moment in moments if moment.fires in tokens) / total if total else 0.0


class _Samples:
    """Samples that are the same if they are one object: comparing them would take as long as looking at them."""

    def __init__(self, moments: tuple[ActivationExample, ...]) -> None:
        self.moments = moments

    def __hash__(self) -> int:
        return id(self.moments)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Samples) and self.moments is other.moments


class _Said(NamedTuple):
    """What is said of where samples fire."""

    words: list[Named]
    contexts: list[Clause]


@lru_cache(maxsize=32)
def _said(samples: _Samples, base: BaseRates | None, rule: RuleSettings, wording: WordingSettings) -> _Said:
    """Kept for the methods that look at the same samples of a feature."""
    moments = samples.moments
    return _Said(_firing_words(moments, base, rule, wording), contexts_of(moments, base, rule, wording))


def _firing_words(
    moments: Sequence[ActivationExample], base: BaseRates | None, rule: RuleSettings, wording: WordingSettings
) -> list[Named]:
    """The words that are named, the strongest first, and in the place of those that are of one kind the kind, if it
    says what the list would.

    Those with the greatest sums of squared activations are named, so that a few strong ones go before many weak ones,
    if they have their share of the activation and are commoner where the feature fires than elsewhere; the first is
    named in any case.
    """
    by_token: dict[str, list[float]] = defaultdict(list)
    for moment in moments:
        by_token[moment.fires].append(moment.activation)
    squares = {token: sum(a * a for a in activations) for token, activations in by_token.items()}
    total = sum(moment.activation for moment in moments) or 1.0
    parts = group([token_of(token) for token in sorted(squares, key=lambda token: (-squares[token], token))], wording)
    found: list[tuple[Group, list[float]]] = []
    for part in parts:
        found.append((part, [a for token in part.tokens for a in by_token[token.text]]))
    found.sort(key=lambda row: -sum(a * a for a in row[1]))
    kept: list[Named] = []
    for at, (part, activations) in enumerate(found):
        elsewhere = 0 if base is None else sum(base.at.get(token.text, 0) for token in part.tokens)
        is_more = base is None or lift(len(activations), len(moments), elsewhere, base.n).low > 1
        if at == 0 or (is_more and sum(activations) >= rule.min_share * total):
            kept.append(Named(part.name, frozenset(token.text for token in part.tokens), max(activations)))
    kept = sorted(kept[: rule.max_words], key=lambda one: -one.peak)
    return _with_kind(kept, moments, base, by_token)


def _with_kind(
    named: list[Named],
    moments: Sequence[ActivationExample],
    base: BaseRates | None,
    by_token: Mapping[str, list[float]],
) -> list[Named]:
    """The words, those of one kind as two examples and the kind, where the kind covers them and others of its own."""
    found = kind_of(Counted(moments, "token"), base, MIN_OF_KIND)
    if found is None:
        return named
    kind, tokens = found
    of_kind = [one for one in named if one.tokens & tokens]
    activations = [a for token, many in by_token.items() if token in tokens for a in many]
    whole = Named(kind, tokens, sum(activations) / len(activations))
    examples = [] if kind.is_unseen else of_kind[:EXAMPLES]
    return [*examples, whole, *(one for one in named if one not in of_kind)]


def _promoted(evidence: Evidence, wording: WordingSettings) -> tuple[Word, ...]:
    """Names of the tokens that are promoted; the kind that most of them are of, if so few tokens of the corpus are."""
    tokens, base = evidence.promotes, evidence.base
    named = _names(tokens, wording)[:MAX_PROMOTED]
    if base is None or len(tokens) < MIN_PROMOTED:
        return named
    for kind, of_kind in sorted(members(tokens).items(), key=lambda row: -len(row[1])):
        elsewhere = len(base.kinds.get(kind, ()))
        if (
            2 * len(of_kind) > len(tokens)
            and lift(len(of_kind), len(tokens), elsewhere, len(base.at)).low > MIN_KIND_LIFT
        ):
            others = [name for name in named if not kind.names(name)]
            examples = [] if kind.is_unseen else [name for name in named if kind.names(name)][:EXAMPLES]
            return (*examples, kind, *others)[:MAX_PROMOTED]
    return named


def _names(tokens: Sequence[str], wording: WordingSettings) -> tuple[str, ...]:
    """Names of tokens, strongest first, those that no reader can see last."""
    return tuple(part.name for part in sorted(group([token_of(token) for token in tokens], wording), key=_is_unseen))


def _is_unseen(part: Group) -> bool:
    return part.kind == "bytes" or not part.tokens[0].text.strip("\n\t\r").isprintable()
