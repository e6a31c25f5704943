"""The `tokens` explainer: evidence into readable English by rule, and the same English read back.

`the token ‘officer’ and its forms; weaker on ‘cop’; often after ‘police’; or the tokens ‘judge’, ‘court’; promotes
‘headquarters’`: clauses are separated by semicolons, `or` begins another mechanism, and what the feature promotes comes
last. Words are named in the order in which they drive the feature.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Literal

from interp.descriptions.base_rates import NEAR, BaseRates, Lift, lift
from interp.descriptions.evidence import ActivationExample, Evidence, strong
from interp.descriptions.settings import RuleSettings
from interp.weightlens.description import MIN_LEMMA_LETTERS, Group, Token, group
from interp.weightlens.settings import WordingSettings

WEAK = 0.5
"""A word is weak if the feature's greatest activation on it is below this part of its strong ones."""

FREQUENCIES = ((0.75, ""), (0.5, "mostly "), (0.35, "often "), (0.0, "sometimes "))
"""What is said of a context that at least such a share of the samples has."""

LOOSE = frozenset({"sometimes "})
"""Of contexts, those that a word may well stand without."""


@dataclass(frozen=True)
class Mechanism:
    """One way to fire a feature, as a description tells it."""

    words: tuple[str, ...] = ()
    """The firing tokens, as shown, the strongest first."""
    weaker: tuple[str, ...] = ()
    """Others, on which it fires weakly."""
    after: tuple[str, ...] = ()
    """Words that come before, any of them."""
    right_after: bool = False
    """They come immediately before."""
    frequency: str = ""
    """How often they do, as `FREQUENCIES` has it."""
    many: bool = False
    """The words are examples: after such a context, any word is meant."""


@dataclass(frozen=True)
class Meaning:
    """A description by rule, taken apart."""

    mechanisms: tuple[Mechanism, ...] = ()
    promotes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Clause:
    """Something that a description says of where the feature fires, as tokens."""

    kind: Literal["token", "right after", "after"]
    names: tuple[str, ...]
    """As the description shows them."""
    tokens: frozenset[str]

    def holds(self, moment: ActivationExample) -> bool:
        """Whether it is true of a sample; `after` looks where `_places` says."""
        if self.kind == "token":
            return moment.fires in self.tokens
        return any(moment.tokens[at] in self.tokens for at in _places(moment, immediately=self.kind == "right after"))

    def compared(self, moments: Sequence[ActivationExample], base: BaseRates) -> Lift:
        """How often it holds of samples, beside the tokens of the corpus."""
        counts = base.at
        if self.kind == "after":
            counts = base.near if moments[0].causes is None else base.before
        elsewhere = sum(counts.get(token, 0) for token in self.tokens)
        return lift(sum(map(self.holds, moments)), len(moments), elsewhere, base.n)


def by_rule(evidence: Evidence, rule: RuleSettings, wording: WordingSettings) -> str | None:
    """One feature or cluster in words; None where the evidence says nothing."""
    meaning = Meaning(tuple(_mechanisms(evidence, rule, wording)), _names(evidence.promotes, rule, wording))
    return text_of(meaning) or None


def joined(parts: Sequence[str], whole: Evidence, rule: RuleSettings, wording: WordingSettings) -> str | None:
    """The descriptions of a feature's clusters as one, with what holds for the whole feature; those that fire it
    strongly first."""
    mechanisms = [mechanism for part in parts for mechanism in meaning_of(part).mechanisms]
    promotes = [word for part in parts for word in meaning_of(part).promotes]
    own = replace(whole, moments=())
    mechanisms = sorted([*_mechanisms(own, rule, wording), *mechanisms], key=lambda mechanism: not mechanism.words)
    named = _names(whole.promotes, rule, wording) or tuple(dict.fromkeys(promotes))[: rule.max_words]
    return text_of(Meaning(_without_repeats(mechanisms), named)) or None


def _without_repeats(mechanisms: Iterable[Mechanism]) -> tuple[Mechanism, ...]:
    """Each word once where no context sets it apart: what was said to fire strongly is not said again."""
    said: set[str] = set()
    kept: list[Mechanism] = []
    for one in mechanisms:
        words = tuple(word for word in one.words if one.after or word not in said)
        weaker = tuple(word for word in one.weaker if word not in said and word not in words)
        if words or weaker:
            kept.append(replace(one, words=words, weaker=weaker))
        said.update(() if one.after else (*words, *weaker))
    return tuple(dict.fromkeys(kept))


def clauses(evidence: Evidence, rule: RuleSettings, wording: WordingSettings) -> list[Clause]:
    """What is said of where a feature or cluster fires, the strongest first; empty without samples."""
    if not evidence.moments:
        return []
    words = (part for part, _ in _firing_words(evidence, rule, wording))
    found = [Clause("token", (part.name,), _texts_of([part])) for part in words]
    context = _context(evidence, rule, wording) if len(evidence.moments) > 1 else None
    return found if context is None else [*found, context]


def _texts_of(parts: Iterable[Group]) -> frozenset[str]:
    return frozenset(token.text for part in parts for token in part.tokens)


def _mechanisms(evidence: Evidence, rule: RuleSettings, wording: WordingSettings) -> Iterable[Mechanism]:
    """The ways to fire: by the greatest activations, by what fires it alone, by samples of the whole range."""
    strongest = _fired(replace(evidence, moments=evidence.strongest), rule, wording)
    read = _names(evidence.reads, rule, wording)
    fired = _fired(evidence, rule, wording)
    if read and strongest is None and fired is not None and not fired.after:
        words = tuple(dict.fromkeys([*fired.words, *read]))[: 2 * rule.max_words]
        return [replace(fired, words=words, weaker=tuple(word for word in fired.weaker if word not in words))]
    found = (strongest, Mechanism(read) if read else None, fired)
    return _without_repeats([one for one in found if one is not None])


def _fired(evidence: Evidence, rule: RuleSettings, wording: WordingSettings) -> Mechanism | None:
    """How sampled activations fire: their words by strength, and the context that they share; None without any."""
    moments = evidence.moments
    if not moments:
        return None
    words = _firing_words(evidence, rule, wording)
    level = evidence.strong or strong(moments)
    names = tuple(part.name for part, peak in words if peak >= WEAK * level)
    weaker = tuple(part.name for part, peak in words if peak < WEAK * level)
    context = _context(evidence, rule, wording) if len(moments) > 1 else None
    if context is None:
        return Mechanism(names, weaker)
    share = sum(map(context.holds, moments)) / len(moments)
    frequency = next(said for least, said in FREQUENCIES if share >= least)
    covered = coverage(_texts_of(part for part, _ in words), moments)
    many = covered < rule.many and not frequency
    return Mechanism(names, weaker, context.names, context.kind == "right after", frequency, many)


def coverage(tokens: AbstractSet[str], moments: Sequence[ActivationExample]) -> float:
    """The share of the activation that some tokens have."""
    total = sum(moment.activation for moment in moments)
    return sum(moment.activation for moment in moments if moment.fires in tokens) / total if total else 0.0


def _firing_words(evidence: Evidence, rule: RuleSettings, wording: WordingSettings) -> list[tuple[Group, float]]:
    """The words that are named, with the greatest activation on each, the strongest first.

    Those with the greatest sums of squared activations are named, so that a few strong ones go before many weak ones,
    if they have their share of the activation and are commoner where the feature fires than elsewhere; the first is
    named in any case.
    """
    moments, base = evidence.moments, evidence.base
    by_token: dict[str, list[float]] = defaultdict(list)
    for moment in moments:
        by_token[moment.fires].append(moment.activation)
    squares = {token: sum(a * a for a in activations) for token, activations in by_token.items()}
    total = sum(moment.activation for moment in moments) or 1.0
    parts = group([Token(token) for token in sorted(squares, key=lambda token: (-squares[token], token))], wording)
    found: list[tuple[Group, list[float]]] = []
    for part in parts:
        found.append((part, [a for token in part.tokens for a in by_token[token.text]]))
    found.sort(key=lambda row: -sum(a * a for a in row[1]))
    kept = []
    for at, (part, activations) in enumerate(found):
        elsewhere = 0 if base is None else sum(base.at.get(token.text, 0) for token in part.tokens)
        is_more = base is None or lift(len(activations), len(moments), elsewhere, base.n).low > 1
        if at == 0 or (is_more and sum(activations) >= rule.min_share * total):
            kept.append((part, max(activations)))
    return sorted(kept[: rule.max_words], key=lambda row: -row[1])


def _context(evidence: Evidence, rule: RuleSettings, wording: WordingSettings) -> Clause | None:
    """Words before the firing token that a good share of the samples has, more than tokens elsewhere do; immediately
    before it if there are such, else anywhere among its causes."""
    moments, least = evidence.moments, rule.min_context * len(evidence.moments)
    kinds: tuple[Literal["right after", "after"], ...] = ("right after", "after")
    for kind in kinds:
        standing = list(_standing_before(moments, immediately=kind == "right after"))
        n_samples = Counter(token for token, _ in standing)
        parts: list[Group] = []
        for part, _ in _weighed(standing, wording):
            if part.kind == "bytes" or sum(n_samples[token.text] for token in part.tokens) < least:
                continue  # no more samples than that can have it: nearly all parts end here
            clause = Clause(kind, (part.name,), _texts_of([part]))
            is_more = evidence.base is None or clause.compared(moments, evidence.base).low > 1
            if is_more and sum(map(clause.holds, moments)) >= least:
                parts.append(part)
            if len(parts) == rule.max_words:
                break
        if parts:
            return Clause(kind, tuple(part.name for part in parts), _texts_of(parts))
    return None


def _places(moment: ActivationExample, *, immediately: bool) -> list[int]:
    """Where a context is looked for: among the causes before the firing token, or shortly before it."""
    nearest = range(max(0, moment.at - NEAR), moment.at)
    places = list(nearest) if moment.causes is None else [at for at in moment.causes if at < moment.at]
    return [at for at in places if at == moment.at - 1] if immediately else places


def _standing_before(moments: Sequence[ActivationExample], *, immediately: bool) -> Iterable[tuple[str, float]]:
    """(token, activation) of each moment's causes before the firing token, each token once a moment."""
    for moment in moments:
        for token in dict.fromkeys(moment.tokens[at] for at in _places(moment, immediately=immediately)):
            yield token, moment.activation


def _weighed(tokens: Iterable[tuple[str, float]], wording: WordingSettings) -> list[tuple[Group, float]]:
    """Words with the summed weights of their tokens, the heaviest first."""
    weights: dict[str, float] = defaultdict(float)
    for token, weight in tokens:
        weights[token] += weight
    ordered = sorted(weights, key=lambda token: (-weights[token], token))
    groups = group([Token(token) for token in ordered], wording)
    weighed = [(part, sum(weights[token.text] for token in part.tokens)) for part in groups]
    return sorted(weighed, key=lambda pair: -pair[1])


def _names(tokens: Sequence[str], rule: RuleSettings, wording: WordingSettings) -> tuple[str, ...]:
    """Names of tokens, strongest first, those that no reader can see last."""
    parts = sorted(group([Token(token) for token in tokens], wording), key=_is_unseen)
    return tuple(part.name for part in parts)[: rule.max_words]


def _is_unseen(part: Group) -> bool:
    return part.kind == "bytes" or not part.tokens[0].text.strip("\n\t\r").isprintable()


def quoted(words: Iterable[str]) -> str:
    """Words in quotation marks that no word can close."""
    return ", ".join(f"‘{word.replace('‘', chr(92) + 'u2018').replace('’', chr(92) + 'u2019')}’" for word in words)


def text_of(meaning: Meaning) -> str:
    """A meaning as English."""
    said = []
    for at, mechanism in enumerate(meaning.mechanisms):
        start = "or " if at else ""
        if mechanism.many and mechanism.words:
            said.append(f"{start}many tokens, such as {quoted(mechanism.words)}")
        elif len(mechanism.words) == 1:
            said.append(f"{start}the token {quoted(mechanism.words)}{_forms(mechanism.words[0])}")
        elif mechanism.words:
            said.append(f"{start}the tokens {quoted(mechanism.words)}")
        if mechanism.weaker:
            said.append(f"{'' if mechanism.words else start}weaker on {quoted(mechanism.weaker)}")
        if mechanism.after:
            right = "right " if mechanism.right_after else ""
            said.append(f"{mechanism.frequency}{right}after {quoted(mechanism.after)}")
    if meaning.promotes:
        said.append(f"promotes {quoted(meaning.promotes)}")
    return "; ".join(said)


def _forms(word: str) -> str:
    """Whether forms of a word as shown are meant with it: not of pieces, signs and what is shorter than lemmas are."""
    return " and its forms" if word.isalpha() and len(word) >= MIN_LEMMA_LETTERS else ""


_QUOTED = re.compile(r"‘([^‘]*?)’(?=[,;.:)\s]|$)")
_CLAUSE = re.compile(r"; (?![^‘]*’(?:[,;.:)\s]|$))")


_CONTEXT = re.compile(r"\s*(mostly |often |sometimes )?(?:right )?after\b")


def meaning_of(text: str) -> Meaning:
    """A description read back. Free text without quotation marks means its own longer words."""
    mechanisms: list[Mechanism] = []
    promotes: list[str] = []
    promoting = False
    for clause in _CLAUSE.split(text):
        words = tuple(_unquoted(word) for word in _QUOTED.findall(clause))
        said = _QUOTED.sub("", clause)
        if re.match(r"\s*(promotes|suppresses)\b", said):
            promoting = True
        if promoting:
            promotes += words if "suppresses" not in said else ()
        elif (context := _CONTEXT.match(said)) and mechanisms:
            frequency = context[1] or ""
            mechanisms[-1] = replace(mechanisms[-1], after=words, right_after="right" in said, frequency=frequency)
        elif words and re.match(r"\s*(or )?weaker on\b", said):
            starts = not mechanisms or said.lstrip().startswith("or ")
            if starts:
                mechanisms.append(Mechanism())
            mechanisms[-1] = replace(mechanisms[-1], weaker=words)
        elif words and mechanisms and not re.match(r"\s*or\b", said):
            mechanisms[-1] = replace(mechanisms[-1], words=mechanisms[-1].words + words)
        elif words:
            mechanisms.append(Mechanism(words, many="many tokens" in said))
    if not mechanisms and not promotes:
        mechanisms = [Mechanism(plain)] if (plain := _plain_words(text)) else []
    return Meaning(tuple(mechanisms), tuple(promotes))


def _unquoted(word: str) -> str:
    return word.replace("\\u2018", "‘").replace("\\u2019", "’")


_COMMON = frozenset(
    re.findall(
        "[a-z]+",
        """
        about after all and any are as at be before by can feature fires for from had has have in into is it its
        like more no not of on one or other such than that the their them then there these they this to token
        tokens was were when where which while who will with word words text texts often
        """,
    )
)
"""Words that say nothing in a description of free text."""


def _plain_words(text: str) -> tuple[str, ...]:
    words = re.findall(r"[^\W\d_]{3,}", text)
    return tuple(dict.fromkeys(word.casefold() for word in words if word.casefold() not in _COMMON))[:12]
