"""The `tokens` explainer: by rule from evidence to a `Meaning`, which `interp.descriptions.english` writes as
English."""

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
"""A word is weak if the feature's greatest activation on it is below this share of its strong activations."""

MIN_OF_KIND = 0.4
"""A kind of tokens is named if it has at least this share of the samples and of their activation."""

MAX_WEAKER = 6
"""Weak words named for one mechanism."""

MAX_MECHANISMS = 4
"""Mechanisms named in one description."""

MIN_PROMOTED = 5
"""A kind of promoted tokens is named if there are at least this many promoted tokens."""

MAX_PROMOTED = 4
"""Promoted words that are named."""

EXAMPLES = 2
"""Words named as examples before the kind that they belong to."""


@dataclass(frozen=True)
class Named:
    """Firing tokens under a common name."""

    word: Word
    tokens: frozenset[str]
    peak: float
    """The greatest activation on one of the tokens; for a kind, the mean."""


def by_rule(evidence: Evidence, rule: RuleSettings, wording: WordingSettings) -> str | None:
    """The description of one feature or cluster; None where the evidence gives nothing to say."""
    meaning = Meaning(tuple(_mechanisms(evidence, rule, wording)), _promoted(evidence, wording))
    return text_of(meaning) or None


def joined(parts: Sequence[str], whole: Evidence, rule: RuleSettings, wording: WordingSettings) -> str | None:
    """One description made from those of a feature's clusters and what holds for the whole feature, with the mechanisms
    of its strongest activations first."""
    alone = Mechanism(_names(whole.reads, wording))
    mechanisms = [_relaxed(one, alone, alone=True) for part in parts for one in meaning_of(part).mechanisms]
    promotes = [word for part in parts for word in meaning_of(part).promotes]
    own = replace(whole, examples=())
    mechanisms = sorted([*_mechanisms(own, rule, wording), *mechanisms], key=lambda mechanism: not mechanism.words)
    named = _promoted(whole, wording) or tuple(dict.fromkeys(promotes))[:MAX_PROMOTED]
    return text_of(Meaning(_without_repeats(mechanisms, rule), named)) or None


def _without_repeats(mechanisms: Iterable[Mechanism], rule: RuleSettings) -> tuple[Mechanism, ...]:
    """Mechanisms without repetition. A word is named once, unless a further context distinguishes the second mention: a
    word said to fire strongly is not repeated as weak, and a context that a word turns out not to need is given as
    the context of its strongest activations. Mechanisms without a context are combined."""
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
    """A mechanism, corrected by a later one: where the same words fire without a context that most but not all samples
    have (or, if `alone`, fire the feature on their own), the context is given as that of the strongest activations."""
    places = _needed(later.contexts)
    if 2 * len(set(earlier.words) & set(later.words)) < len(earlier.words) or not places <= _places(earlier.contexts):
        return earlier
    contexts = []
    for one in earlier.contexts:
        is_needed = (one.kind, one.words) in places or not (one.frequency or alone)
        contexts.append(one if is_needed else replace(one, frequency=STRONGEST))
    return replace(earlier, contexts=tuple(contexts))


def _places(contexts: Sequence[Context]) -> set[tuple[str, tuple[Word, ...]]]:
    """Contexts without their adverbs."""
    return {(context.kind, context.words) for context in contexts}


def _needed(contexts: Sequence[Context]) -> set[tuple[str, tuple[Word, ...]]]:
    """Contexts that most activations of the mechanism have."""
    return _places([context for context in contexts if context.frequency not in LOOSE])


def _is_said(word: Word, contexts: Sequence[Context], kept: Sequence[Mechanism]) -> bool:
    """Whether a word, or a kind it belongs to, was named before with these contexts and possibly more."""
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
    """The statements about where a feature or cluster fires, the strongest first; empty without samples."""
    if not evidence.examples:
        return []
    said = _said(_Samples(evidence.examples), evidence.base, rule, wording)
    found = [Clause("token" if isinstance(one.word, str) else "kind", (one.word,), one.tokens) for one in said.words]
    return [*found, *said.contexts]


def _mechanisms(evidence: Evidence, rule: RuleSettings, wording: WordingSettings) -> Iterable[Mechanism]:
    """The mechanisms: from the greatest activations, from tokens that fire it alone, from samples over the whole
    range."""
    strongest = _fired(replace(evidence, examples=evidence.strongest), rule, wording)
    read = _names(evidence.reads, wording)[: rule.max_words]
    fired = _fired(evidence, rule, wording)
    if read and strongest is None and fired is not None and not fired.contexts:
        words = tuple(dict.fromkeys([*fired.words, *read]))[: 2 * rule.max_words]
        return [replace(fired, words=words, weaker=tuple(word for word in fired.weaker if word not in words))]
    alone = Mechanism(read)
    found = (*_parted(strongest, alone, _names(evidence.reads, wording)), alone if read else None, fired)
    return _without_repeats([one for one in found if one is not None], rule)


def _parted(strongest: Mechanism | None, alone: Mechanism, reads: Sequence[str]) -> Iterable[Mechanism]:
    """The mechanism of the greatest activations, in two where only some of its words fire the feature alone: these go
    first, since the others may need their context."""
    if strongest is None:
        return
    fire_alone = tuple(word for word in strongest.words if word in reads)
    others = tuple(word for word in strongest.words if word not in reads)
    if not fire_alone or not others:
        yield _relaxed(strongest, alone, alone=True)
        return
    yield _relaxed(replace(strongest, words=fire_alone, weaker=()), Mechanism(fire_alone), alone=True)
    yield replace(strongest, words=others)


def _fired(evidence: Evidence, rule: RuleSettings, wording: WordingSettings) -> Mechanism | None:
    """The mechanism that sampled activations show: words by strength and the contexts they share; None without
    samples."""
    examples = evidence.examples
    if not examples:
        return None
    named, found = _said(_Samples(examples), evidence.base, rule, wording)
    level = evidence.strong or strong(examples)
    words = tuple(one.word for one in named if one.peak >= WEAK * level)
    weaker = tuple(one.word for one in named if one.peak < WEAK * level)
    contexts = tuple(_context(clause, examples) for clause in found)
    covered = coverage(frozenset(text for one in named for text in one.tokens), examples)
    many = covered < rule.many and any(not context.frequency for context in contexts)
    return Mechanism(words, weaker, contexts, many)


def _context(clause: Clause, examples: Sequence[ActivationExample]) -> Context:
    share = sum(map(clause.holds, examples)) / len(examples)
    frequency = next(said for least, said in FREQUENCIES if share >= least)
    assert clause.kind not in ("token", "kind")
    return Context(clause.kind, clause.names, frequency)


def coverage(tokens: AbstractSet[str], examples: Sequence[ActivationExample]) -> float:
    """Share of the samples' activation that is on the given tokens."""
    total = sum(example.activation for example in examples)
    return sum(example.activation for example in examples if example.fires in tokens) / total if total else 0.0


class _Samples:
    """Samples as a cache key: equal only if they are the same object, since comparing them takes as long as using
    them."""

    def __init__(self, examples: tuple[ActivationExample, ...]) -> None:
        self.examples = examples

    def __hash__(self) -> int:
        return id(self.examples)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Samples) and self.examples is other.examples


class _Said(NamedTuple):
    """The words and contexts of some samples."""

    words: list[Named]
    contexts: list[Clause]


@lru_cache(maxsize=32)
def _said(samples: _Samples, base: BaseRates | None, rule: RuleSettings, wording: WordingSettings) -> _Said:
    """Words and contexts, cached for the methods that use the same samples of a feature."""
    examples = samples.examples
    return _Said(_firing_words(examples, base, rule, wording), contexts_of(examples, base, rule, wording))


def _firing_words(
    examples: Sequence[ActivationExample], base: BaseRates | None, rule: RuleSettings, wording: WordingSettings
) -> list[Named]:
    """The words that are named, the strongest first; a kind replaces those of its words if it says the same.

    Words are ranked by their sum of squared activations, so that a few strong activations count more than many weak
    ones. A word is named if it has the required share of the activation and is more frequent where the feature fires
    than elsewhere; the first is always named.
    """
    by_token: dict[str, list[float]] = defaultdict(list)
    for example in examples:
        by_token[example.fires].append(example.activation)
    squares = {token: sum(a * a for a in activations) for token, activations in by_token.items()}
    total = sum(example.activation for example in examples) or 1.0
    parts = group([token_of(token) for token in sorted(squares, key=lambda token: (-squares[token], token))], wording)
    found: list[tuple[Group, list[float]]] = []
    for part in parts:
        found.append((part, [a for token in part.tokens for a in by_token[token.text]]))
    found.sort(key=lambda row: -sum(a * a for a in row[1]))
    kept: list[Named] = []
    for at, (part, activations) in enumerate(found):
        elsewhere = 0 if base is None else sum(base.at.get(token.text, 0) for token in part.tokens)
        is_more = base is None or lift(len(activations), len(examples), elsewhere, base.n).low > 1
        if at == 0 or (is_more and sum(activations) >= rule.min_share * total):
            kept.append(Named(part.name, frozenset(token.text for token in part.tokens), max(activations)))
    kept = sorted(kept[: rule.max_words], key=lambda one: -one.peak)
    return _with_kind(kept, examples, base, by_token)


def _with_kind(
    named: list[Named],
    examples: Sequence[ActivationExample],
    base: BaseRates | None,
    by_token: Mapping[str, list[float]],
) -> list[Named]:
    """The words; words of one kind are replaced by two examples and the kind, if the kind covers these words and
    others."""
    found = kind_of(Counted(examples, "token"), base, MIN_OF_KIND)
    if found is None:
        return named
    kind, tokens = found
    of_kind = [one for one in named if one.tokens & tokens]
    activations = [a for token, many in by_token.items() if token in tokens for a in many]
    whole = Named(kind, tokens, sum(activations) / len(activations))
    shown = [] if kind.is_unseen else of_kind[:EXAMPLES]
    return [*shown, whole, *(one for one in named if one not in of_kind)]


def _promoted(evidence: Evidence, wording: WordingSettings) -> tuple[Word, ...]:
    """Names of promoted tokens. If most of them belong to a kind that few tokens of the corpus belong to, the kind."""
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
    """Names of tokens, the strongest first; tokens that a reader cannot see come last."""
    return tuple(part.name for part in sorted(group([token_of(token) for token in tokens], wording), key=_is_unseen))


def _is_unseen(part: Group) -> bool:
    return part.kind == "bytes" or not part.tokens[0].text.strip("\n\t\r").isprintable()
