"""Descriptions by rule, written as English and parsed back from it.

Example: `‘officer’ and its forms, often right after ‘police’; more weakly ‘cop’; also ‘judge’ and ‘court’. Promotes
‘headquarters’.` Clauses are separated by semicolons, `also` begins another mechanism, and a sentence of its own says
what the feature promotes. Words come in the order in which they drive the feature.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from interp.descriptions.kinds import BY_NAME, Kind, words_that_begin_with, words_that_end_in
from interp.weightlens.description import MIN_LEMMA_LETTERS

Word = str | Kind
"""The text of a token as a description shows it, or a kind of tokens."""

ContextKind = Literal["in", "at the start of a line", "right after", "after", "right before", "in texts with"]

FREQUENCIES = ((0.75, ""), (0.5, "mostly "), (0.35, "often "), (0.0, "sometimes "))
"""The adverb for a context, by the smallest share of the samples that have it."""

STRONGEST = "strongest "
"""The adverb for a context that only the strongest activations have."""

LOOSE = frozenset({"sometimes ", "often ", STRONGEST})
"""Adverbs of contexts without which the word often fires as well."""


@dataclass(frozen=True)
class Context:
    """What surrounds a firing token."""

    kind: ContextKind
    words: tuple[Word, ...] = ()
    """Any one of these words or kinds."""
    frequency: str = ""
    """The adverb that says how often, from `FREQUENCIES`."""


@dataclass(frozen=True)
class Mechanism:
    """One way in which a feature is made to fire, as a description states it."""

    words: tuple[Word, ...] = ()
    """The firing tokens, the strongest first."""
    weaker: tuple[Word, ...] = ()
    """Further tokens, on which the feature fires weakly."""
    contexts: tuple[Context, ...] = ()
    many: bool = False
    """The words are only examples: in such a context the feature fires on any word."""


@dataclass(frozen=True)
class Meaning:
    """The content of a description by rule."""

    mechanisms: tuple[Mechanism, ...] = ()
    promotes: tuple[Word, ...] = ()


def quoted(words: Iterable[str]) -> list[str]:
    """Words within quotation marks; quotation marks inside them are escaped, so that no word can close them."""
    return [f"‘{word.replace('‘', chr(92) + 'u2018').replace('’', chr(92) + 'u2019')}’" for word in words]


def listed(words: Sequence[Word], last: str = "and") -> str:
    """Words as an English list, for example `‘64’, ‘32’ and other numbers`."""
    said = []
    for at, word in enumerate(words):
        before = words[at - 1] if at else None
        if isinstance(word, str):
            said += quoted([word])
        else:
            said.append(f"other {word.name}" if isinstance(before, str) and word.names(before) else word.name)
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} {last} {said[-1]}"


def text_of(meaning: Meaning) -> str:
    """A meaning as English, in at most two sentences."""
    said = []
    for at, mechanism in enumerate(meaning.mechanisms):
        also = "also " if at else ""
        contexts = _contexts_text(mechanism.contexts)
        if mechanism.words:
            many = "many tokens, such as " if mechanism.many else ""
            forms = _forms(mechanism.words[0]) if len(mechanism.words) == 1 and not many else ""
            said.append(f"{also}{many}{listed(mechanism.words)}{forms}{contexts}")
            also = contexts = ""
        if mechanism.weaker:
            said.append(f"{also}more weakly {listed(mechanism.weaker)}{contexts}")
    sentences = ["; ".join(said)] if said else []
    if meaning.promotes:
        sentences.append(f"promotes {listed(meaning.promotes)}")
    return "".join(f"{sentence[0].upper()}{sentence[1:]}. " for sentence in sentences).strip()


def with_rest(text: str, share: float) -> str:
    """The description with the share of activation on tokens that it does not name."""
    first, *promotes = _PROMOTES.split(text, maxsplit=1)
    rest = f"{first.removesuffix('.')}; {share:.0%} of its activation is on other tokens."
    return f"{rest} Promotes{promotes[0]}" if promotes else rest


def _contexts_text(contexts: Sequence[Context]) -> str:
    """Contexts as English; an adverb that two of them share is written once."""
    said, before = "", None
    for one in contexts:
        words = f" {listed(one.words, 'or')}" if one.words else ""
        if before is not None and before == one.frequency:
            said += f" and {one.kind}{words}"
        else:
            said += f"{'' if one.kind == 'in' and not one.frequency else ','} {one.frequency}{one.kind}{words}"
        before = one.frequency
    return said


def _forms(word: Word) -> str:
    """The words “and its forms” if forms of a word are meant: not for pieces of words, signs and very short words."""
    return " and its forms" if isinstance(word, str) and word.isalpha() and len(word) >= MIN_LEMMA_LETTERS else ""


_QUOTED = re.compile(r"‘([^‘]*?)’(?=[,;.:)\s]|$)")
_PROMOTES = re.compile(r"(?<=\.) Promotes(?= (?:‘|[a-z]))")
_LISTED = re.compile(
    "(?:words that (?:end in|begin with) )?\x00([0-9]+)\x00|"
    + rf"(?<!\w)({'|'.join(sorted(map(re.escape, BY_NAME), key=lambda name: -len(name)))})(?!\w)",
    re.IGNORECASE,
)
_BY_FOLDED = {name.casefold(): kind for name, kind in BY_NAME.items()}
_HOW_OFTEN = "|".join(sorted({said.strip() for _, said in FREQUENCIES} - {""} | {STRONGEST.strip()}))
_PLACES = "at the start of a line|right after|after|right before|in texts with"
_CONTEXT = re.compile(rf"(?:^|( and )|,? )((?:{_HOW_OFTEN}) )?({_PLACES}|(?<!that end )in(?= \x00))")


def meaning_of(text: str) -> Meaning:
    """Parse a description by rule. Of any other text, the words in quotation marks are taken, and of text without
    quotation marks its own longer words."""
    words: list[str] = []

    def keep(found: re.Match[str]) -> str:
        words.append(found[1].replace("\\u2018", "‘").replace("\\u2019", "’"))
        return f"\x00{len(words) - 1}\x00"

    mechanisms: list[Mechanism] = []
    promotes: list[Word] = []
    promoting = False
    for clause in re.split(r"; |\. |\.$", _QUOTED.sub(keep, text.replace("\x00", ""))):
        said = clause.strip()
        if re.match(r"(promotes|suppresses)\b", said, re.IGNORECASE):
            promoting = True
        if promoting:
            promotes += _words_in(said, words) if "suppresses" not in said.casefold() else ()
        else:
            _read_clause(said, words, mechanisms)
    if not words and not _is_by_rule(text):
        mechanisms = [Mechanism(plain)] if (plain := _plain_words(text)) else []
    return Meaning(tuple(mechanisms), tuple(promotes))


def _read_clause(said: str, words: Sequence[str], mechanisms: list[Mechanism]) -> None:
    """Parse one clause and add what it says to the mechanisms before it."""
    starts = list(_CONTEXT.finditer(said))
    head = said[: starts[0].start()] if starts else said
    ends = [*(found.start() for found in starts[1:]), len(said)]  # tokens not named: no mechanism
    contexts: list[Context] = []
    for found, end in zip(starts, ends, strict=False):
        frequency = contexts[-1].frequency if found[1] and contexts else found[2] or ""
        contexts.append(Context(_CONTEXT_KINDS[found[3]], tuple(_words_in(said[found.end() : end], words)), frequency))
    kept = tuple(one for one in contexts if _is_context(one))
    named = tuple(_words_in(head, words))
    if not named and not (kept and mechanisms):
        return
    is_new = not mechanisms or re.match(r"(or|also)\b", head, re.IGNORECASE) is not None
    if is_new:
        mechanisms.append(Mechanism())
    last = mechanisms[-1]
    if re.match(r"(also )?more weakly\b", head, re.IGNORECASE):
        last = replace(last, weaker=last.weaker + named)
    else:
        last = replace(last, words=last.words + named, many=last.many or "many tokens" in head.casefold())
    mechanisms[-1] = replace(last, contexts=last.contexts + kept)


def _is_context(one: Context) -> bool:
    """Whether what looks like a context is one; `in` introduces exactly one word."""
    is_phrase = any(isinstance(word, str) and " " in word for word in one.words)
    return one.kind == "at the start of a line" or (bool(one.words) and not (one.kind == "in" and is_phrase))


_CONTEXT_KINDS: dict[str, ContextKind] = {
    "in": "in",
    "at the start of a line": "at the start of a line",
    "right after": "right after",
    "after": "after",
    "right before": "right before",
    "in texts with": "in texts with",
}


def _words_in(said: str, words: Sequence[str]) -> Iterable[Word]:
    """The words and kinds that part of a description lists, in their order."""
    for found in _LISTED.finditer(said):
        if found[2]:
            yield _BY_FOLDED[found[2].casefold()]
            continue
        word = words[int(found[1])]
        if found[0].casefold().startswith("words that end in"):
            yield words_that_end_in(word.strip("-"))
        elif found[0].casefold().startswith("words that begin"):
            yield words_that_begin_with(word.strip("-"))
        else:
            yield word


_BETWEEN = re.compile(
    rf"(also|more weakly|many tokens, such as|other|and|or|promotes|{_HOW_OFTEN}|{_PLACES}|"
    r"\d+% of its activation is on other tokens|[,;.\s])+",
    re.IGNORECASE,
)


def _is_by_rule(text: str) -> bool:
    """Whether a text without quotation marks consists of names of kinds of tokens and nothing else."""
    return bool(re.fullmatch(_BETWEEN, _LISTED.sub("", text) or ".")) and bool(_LISTED.search(text))


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
"""Words that carry no information in a description in free text."""


def _plain_words(text: str) -> tuple[str, ...]:
    words = re.findall(r"[^\W\d_]{3,}", text)
    return tuple(dict.fromkeys(word.casefold() for word in words if word.casefold() not in _COMMON))[:12]
