"""The `tokens` explainer: evidence into readable English by rule, and the same English read back.

`the token ‘officer’ and its forms; after ‘police’; or the tokens ‘judge’, ‘court’; promotes ‘headquarters’`: clauses
are separated by semicolons, `or` begins another mechanism, and what the feature promotes comes last.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from interp.descriptions.evidence import ActivationExample, Evidence
from interp.descriptions.settings import RuleSettings
from interp.weightlens.description import MIN_LEMMA_LETTERS, Group, Token, group
from interp.weightlens.settings import WordingSettings

NEAR = 3
"""Tokens before the firing one among which a context is looked for where no attribution says which matter."""


@dataclass(frozen=True)
class Mechanism:
    """One way to fire a feature, as a description tells it."""

    words: tuple[str, ...] = ()
    """The firing tokens, as shown."""
    after: tuple[str, ...] = ()
    """Words that come before, any of them."""
    right_after: bool = False
    """They come immediately before."""
    many: bool = False
    """The words are examples: after such a context, any word is meant."""


@dataclass(frozen=True)
class Meaning:
    """A description by rule, taken apart."""

    mechanisms: tuple[Mechanism, ...] = ()
    promotes: tuple[str, ...] = ()


def by_rule(evidence: Evidence, rule: RuleSettings, wording: WordingSettings) -> str | None:
    """One feature or cluster in words; None where the evidence says nothing."""
    meaning = Meaning(tuple(_mechanisms(evidence, rule, wording)), _names(evidence.promotes, rule, wording))
    return text_of(meaning) or None


def joined(parts: Sequence[str], whole: Evidence, rule: RuleSettings, wording: WordingSettings) -> str | None:
    """The descriptions of a feature's clusters as one, with what holds for the whole feature."""
    mechanisms = [mechanism for part in parts for mechanism in meaning_of(part).mechanisms]
    promotes = [word for part in parts for word in meaning_of(part).promotes]
    own = replace(whole, moments=())
    mechanisms = [*_mechanisms(own, rule, wording), *mechanisms]
    named = _names(whole.promotes, rule, wording) or tuple(dict.fromkeys(promotes))[: rule.max_words]
    return text_of(Meaning(tuple(dict.fromkeys(mechanisms)), named)) or None


def _mechanisms(evidence: Evidence, rule: RuleSettings, wording: WordingSettings) -> Iterable[Mechanism]:
    fired = _fired(evidence.moments, rule, wording)
    read = _names(evidence.reads, rule, wording)
    if fired is None:
        return [Mechanism(read)] if read else []
    if read and not fired.after:
        words = tuple(dict.fromkeys([*read, *fired.words]))[: 2 * rule.max_words]
        return [replace(fired, words=words)]
    return [Mechanism(read), fired] if read else [fired]


def _fired(moments: Sequence[ActivationExample], rule: RuleSettings, wording: WordingSettings) -> Mechanism | None:
    if not moments:
        return None
    words = _weighed(((moment.fires, moment.activation) for moment in moments), wording)
    total = sum(weight for _, weight in words) or 1.0
    named = [word for at, word in enumerate(words) if at == 0 or word[1] >= rule.min_share * total][: rule.max_words]
    covered = sum(weight for _, weight in named) / total
    names = tuple(part.name for part, _ in named)
    context, right_after = _context(moments, rule, wording) if len(moments) > 1 else ((), False)
    return Mechanism(names, context, right_after, bool(context) and covered < rule.many)


def _context(
    moments: Sequence[ActivationExample], rule: RuleSettings, wording: WordingSettings
) -> tuple[tuple[str, ...], bool]:
    """Words before the firing token that a good share of the activation shares, and whether right before it."""
    total = sum(moment.activation for moment in moments) or 1.0
    adjacent = _weighed(_standing_before(moments, immediately=True), wording)
    anywhere = _weighed(_standing_before(moments, immediately=False), wording)
    for words, right_after in ((adjacent, True), (anywhere, False)):
        names = [part.name for part, weight in words if weight >= rule.min_context * total and part.kind != "bytes"]
        if names:
            return tuple(names[: rule.max_words]), right_after
    return (), False


def _standing_before(moments: Sequence[ActivationExample], *, immediately: bool) -> Iterable[tuple[str, float]]:
    """(token, activation) of each moment's causes before the firing token, each token once a moment."""
    for moment in moments:
        nearest = range(max(0, moment.at - NEAR), moment.at)
        places = nearest if moment.causes is None else [at for at in moment.causes if at < moment.at]
        if immediately:
            places = [at for at in places if at == moment.at - 1]
        for token in dict.fromkeys(moment.tokens[at] for at in places):
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
    clauses = []
    for at, mechanism in enumerate(meaning.mechanisms):
        start = "or " if at else ""
        if mechanism.many:
            clauses.append(f"{start}many tokens, such as {quoted(mechanism.words)}")
        elif len(mechanism.words) == 1:
            clauses.append(f"{start}the token {quoted(mechanism.words)}{_forms(mechanism.words[0])}")
        else:
            clauses.append(f"{start}the tokens {quoted(mechanism.words)}")
        if mechanism.after:
            clauses.append(f"{'right ' if mechanism.right_after else ''}after {quoted(mechanism.after)}")
    if meaning.promotes:
        clauses.append(f"promotes {quoted(meaning.promotes)}")
    return "; ".join(clauses)


def _forms(word: str) -> str:
    """Whether forms of a word as shown are meant with it: not of pieces, signs and what is shorter than lemmas are."""
    return " and its forms" if word.isalpha() and len(word) >= MIN_LEMMA_LETTERS else ""


_QUOTED = re.compile(r"‘([^‘]*?)’(?=[,;.:)\s]|$)")
_CLAUSE = re.compile(r"; (?![^‘]*’(?:[,;.:)\s]|$))")


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
        elif re.match(r"\s*(right )?after\b", said) and mechanisms:
            mechanisms[-1] = replace(mechanisms[-1], after=words, right_after="right" in said)
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
