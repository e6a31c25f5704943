"""The `rule` judge: writes texts from the words that a description names, and rates texts by finding them.

Offline and deterministic. It knows no synonyms: of free text, it takes the quoted or else the longer words.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import simplemma
from jaxtyping import Bool, Float, Int8, Int64

from interp.descriptions.wording import LOOSE, Meaning, Mechanism, meaning_of
from interp.fade.judge import Marked, Text
from interp.weightlens.description import MIN_LEMMA_LETTERS, Token
from interp.weightlens.settings import WordingSettings

OPENINGS = (
    "", "It was", "They said that", "He looked at", "There is a", "One day", "She likes", "We found", "In the end",
    "This is about", "You can see", "Then came", "I know", "Look,", "He asked for", "All of", "At last,", "Once",
)  # fmt: skip
"""What sentences begin with, so that they differ in what does not matter."""

ENDINGS = (" again.", " and so on.", " was there.", " here.", " as well.")

STEMS = ("7", "re", "(", "st", "42", "ca", "-", "un", "3", "mo", "_", "be", "x9", "de", "1")
"""What pieces of words are attached to. Letters do not merge with digits and signs, so that the piece is a token."""

SENTENCES = 4
"""Of a text, all about one word: so it is about as long as a natural one, and drives a feature by chance as often."""

BY_RANK = 1.5
"""A word that is named at place r, from 1, has a share of the texts of 1 / r to this power."""

WEAKER = 0.1
"""Part of that which a word has that fires the feature weakly."""

VAGUE = 0.5
"""Expected activity where a word stands without the context that the description says."""

HINT = 0.25
"""Expected activity at a token that one of the promoted tokens follows, where nothing else is expected."""

_FORMS = WordingSettings().languages

_meaning = lru_cache(maxsize=4096)(meaning_of)
"""A description is read back once, not once for every question about it."""


class _Flat(NamedTuple):
    """Texts as one row of tokens."""

    ids: Int64[np.ndarray, " n"]
    owner: Int64[np.ndarray, " n"]
    """The text of each token."""
    start: Int64[np.ndarray, " n_texts"]


class RuleJudge:
    """Implements `Judge`. Tokens are looked up by the forms they may be named by, each once."""

    def __init__(self) -> None:
        self._number: dict[str, int] = {}
        self._by_form: dict[str, list[int]] = defaultdict(list)
        self._ids: dict[Text, np.ndarray] = {}
        self._masks: dict[tuple[str, ...], np.ndarray] = {}

    def synthesise(self, description: str, n: int) -> list[str]:
        """Texts about the words that are named, behind their contexts where they have one: the more, the earlier a word
        is named, and few of words that fire the feature weakly (shares as in Sainte-Laguë's method for seats)."""
        mechanisms = _mechanisms(_meaning(description))
        named = [(mechanism, word) for mechanism in mechanisms for word in mechanism.words]
        weaker = [(mechanism, word) for mechanism in mechanisms for word in mechanism.weaker]
        weights = [1 / (1 + at) ** BY_RANK for at in range(len(named) + len(weaker))]
        weights[len(named) :] = [WEAKER * weight for weight in weights[len(named) :]]
        writers = [_Writer(*one, weight) for one, weight in zip([*named, *weaker], weights, strict=True)]
        waiting = [writer for writer in writers if not writer.word.startswith("<0x")] or writers
        texts: dict[str, None] = {}
        while waiting and len(texts) < n:
            writer = max(waiting, key=_Writer.claim)
            text = writer.next_text()
            if text is None:
                waiting.remove(writer)
            elif text:
                texts[text] = None
        return list(texts)

    def rate(self, description: str, texts: Sequence[Text]) -> Int8[np.ndarray, " n"]:
        return self._ratings(_mechanisms(_meaning(description)), texts)

    def rate_continuations(self, description: str, texts: Sequence[Text]) -> Int8[np.ndarray, " n"]:
        meaning = _meaning(description)
        promoted = (Mechanism(meaning.promotes),) if meaning.promotes else ()
        return self._ratings((*meaning.mechanisms, *promoted), texts)

    def marks_right(self, description: str, texts: Sequence[Marked]) -> Int8[np.ndarray, " n"]:
        """Right if at least half of the marked tokens are expected to be active."""
        expected = self.simulate(description, [marked.text for marked in texts])
        right = [
            np.mean(activity[list(marked.places)] >= VAGUE) >= 0.5
            for marked, activity in zip(texts, expected, strict=True)
        ]
        return np.array(right, np.int8)

    def simulate(self, description: str, texts: Sequence[Text]) -> list[Float[np.ndarray, " _"]]:
        """What a description says of firing, and faintly where the text goes on with a token that is promoted."""
        meaning, flat = _meaning(description), self._flat(texts)
        expected = self._activity(_mechanisms(meaning), flat)
        if meaning.mechanisms and meaning.promotes:
            follows = self._is_one_of(meaning.promotes)[flat.ids]
            before = np.zeros(len(follows), bool)
            before[:-1] = follows[1:] & (flat.owner[1:] == flat.owner[:-1])
            expected[before] = np.maximum(expected[before], HINT)
        return np.split(expected, flat.start[1:]) if texts else []

    def find_odd(self, description: str, groups: Sequence[Sequence[Marked]]) -> Int8[np.ndarray, " n"]:
        """The text at whose marked tokens the least activity is expected; of equals, the first."""
        expected = self.simulate(description, [marked.text for group in groups for marked in group])
        at, found = 0, []
        for group in groups:
            activity = [
                float(one[list(marked.places)].mean()) if marked.places else 0.0
                for marked, one in zip(group, expected[at : at + len(group)], strict=True)
            ]
            found.append(int(np.argmin(activity)))
            at += len(group)
        return np.array(found, np.int8)

    def _ratings(self, mechanisms: Sequence[Mechanism], texts: Sequence[Text]) -> Int8[np.ndarray, " n"]:
        flat = self._flat(texts)
        peaks = np.zeros(len(texts), np.float32)
        holds = np.diff(flat.start, append=len(flat.ids)) > 0
        peaks[holds] = np.maximum.reduceat(self._activity(mechanisms, flat), flat.start[holds]) if holds.any() else 0
        return np.where(peaks == 1, 2, np.where(peaks > 0, 1, 0)).astype(np.int8)

    def _activity(self, mechanisms: Sequence[Mechanism], flat: _Flat) -> Float[np.ndarray, " n"]:
        """1 where a mechanism's word stands in its context, `VAGUE` where the word stands alone or fires it weakly."""
        expected = np.zeros(len(flat.ids), np.float32)
        for mechanism in mechanisms:
            is_word, is_weaker = (self._is_one_of(words)[flat.ids] for words in (mechanism.words, mechanism.weaker))
            if not mechanism.after or mechanism.frequency in LOOSE:
                expected[is_word] = 1
                expected[is_weaker] = np.maximum(expected[is_weaker], VAGUE)
                continue
            is_context = self._is_one_of(mechanism.after)[flat.ids]
            behind = _right_behind(is_context, flat) if mechanism.right_after else _behind(is_context, flat)
            alone = (is_word & ~behind) | (is_weaker & behind)
            expected[alone] = np.maximum(expected[alone], VAGUE)
            expected[behind & (is_word | mechanism.many)] = 1
        return expected

    def _flat(self, texts: Sequence[Text]) -> _Flat:
        rows = [self._ids_of(text) for text in texts]
        lengths = np.array([len(row) for row in rows], np.int64)
        ids = np.concatenate([np.zeros(0, np.int64), *rows])
        return _Flat(ids, np.repeat(np.arange(len(rows)), lengths), np.cumsum(lengths) - lengths)

    def _ids_of(self, text: Text) -> np.ndarray:
        if text not in self._ids:
            for token in text.tokens:
                if token not in self._number:
                    number = self._number[token] = len(self._number)
                    for form in set(_forms(token)):
                        self._by_form[form].append(number)
            self._ids[text] = np.array([self._number[token] for token in text.tokens], np.int64)
        return self._ids[text]

    def _is_one_of(self, words: tuple[str, ...]) -> Bool[np.ndarray, " n_different"]:
        """Of the tokens seen, which are one of some words: looked up once, until other tokens are seen."""
        found = self._masks.get(words)
        if found is None or len(found) < len(self._number):
            found = self._masks[words] = np.zeros(len(self._number), bool)
            for form in _wanted(words):
                found[self._by_form.get(form, [])] = True
        return found


def _mechanisms(meaning: Meaning) -> tuple[Mechanism, ...]:
    """The ways to fire; what is promoted is taken for one where nothing else is said."""
    return meaning.mechanisms or (Mechanism(meaning.promotes),)


def _right_behind(is_context: Bool[np.ndarray, " n"], flat: _Flat) -> Bool[np.ndarray, " n"]:
    behind = np.zeros(len(is_context), bool)
    behind[1:] = is_context[:-1] & (flat.owner[1:] == flat.owner[:-1])
    return behind


def _behind(is_context: Bool[np.ndarray, " n"], flat: _Flat) -> Bool[np.ndarray, " n"]:
    """Whether a context stands anywhere before, in the same text."""
    n_before = np.cumsum(is_context) - is_context
    first = np.minimum(flat.start, max(0, len(n_before) - 1))
    return n_before > n_before[first][flat.owner] if len(n_before) else is_context


@lru_cache(maxsize=4096)
def _wanted(words: tuple[str, ...]) -> frozenset[str]:
    """The forms under which a token is one of the words: as shown, folded, and their lemmas."""
    found = set()
    for word in words:
        found.add(word)
        if not word.startswith("-"):
            token = Token(word)
            found.update((token.folded, *_lemmas(token.folded)))
    return frozenset(found)


@lru_cache(maxsize=1 << 16)
def _forms(token: str) -> tuple[str, ...]:
    one = Token(token)
    return (one.shown, one.folded, *_lemmas(one.folded)) if one.kind == "word" else (one.shown,)


@lru_cache(maxsize=1 << 16)
def _lemmas(word: str) -> tuple[str, ...]:
    if len(word) < MIN_LEMMA_LETTERS or not word.isalpha():
        return ()
    return tuple(simplemma.lemmatize(word, lang=language).casefold() for language in _FORMS)


class _Writer:
    """Texts about one word, and how many it has had."""

    def __init__(self, mechanism: Mechanism, word: str, weight: float) -> None:
        self.word = word
        self._weight, self._n_written, self._texts = weight, 0, _texts(mechanism, word)

    def claim(self) -> float:
        """Who has the greatest writes next."""
        return self._weight / (self._n_written + 0.5)

    def next_text(self) -> str | None:
        self._n_written += 1
        return next(self._texts, None)


def _texts(mechanism: Mechanism, word: str) -> Iterator[str]:
    """Texts in which a word occurs, in its contexts, in an order of their own for every word."""
    start = int(hashlib.sha256(word.encode()).hexdigest(), 16) % 9973
    for at in range(len(OPENINGS) * len(ENDINGS)):
        yield " ".join(_sentence(mechanism, word, start + at * SENTENCES + turn) for turn in range(SENTENCES))


def _sentence(mechanism: Mechanism, word: str, turn: int) -> str:
    opening, ending = OPENINGS[turn % len(OPENINGS)], ENDINGS[turn % len(ENDINGS)]
    if not mechanism.after or (mechanism.frequency in LOOSE and turn % 2):
        return _append(opening, word, turn) + ending
    context = mechanism.after[turn % len(mechanism.after)]
    behind = _append(opening, context, turn + 5)
    if mechanism.right_after:
        return _attach(behind, word, turn) + ending
    return _append(behind + (" then" if turn % 2 else ""), word, turn) + ending


def _append(text: str, word: str, turn: int) -> str:
    """A text with a word behind it; a piece of a word is attached to a stem."""
    plain = _plain(word)
    if _is_piece(word):
        plain = STEMS[turn % len(STEMS)] + plain
    return f"{text} {plain}" if text and _holds_word(plain) else text + plain


def _attach(text: str, word: str, turn: int) -> str:
    """A text with a word right behind it: a piece goes on with the last word, and behind a sign that is no end of a
    sentence a word stands with and without a blank, as it may in text."""
    plain = _plain(word)
    if _is_piece(word) or not _holds_word(plain):
        return text + plain
    last = text[-1:]
    touches = last.isspace() or (turn % 2 == 0 and not last.isalnum() and last not in ".,;:!?")
    return text + plain if touches else f"{text} {plain}"


def _is_piece(word: str) -> bool:
    return len(word) > 1 and word[0] == "-" and word[1].isalnum()


def _holds_word(text: str) -> bool:
    return any(character.isalnum() for character in text)


_NAMED = re.compile(r"\\n|\\t|\\r|␣|\\u([0-9a-f]{4})|\\U([0-9a-f]{8})")
_BLANKS = {"\\n": "\n", "\\t": "\t", "\\r": "\r", "␣": " "}


def _plain(word: str) -> str:
    """A word as it stands in a text: what `visible` names is written out again, the hyphen of a piece left off."""
    word = word[1:] if _is_piece(word) else word
    return _NAMED.sub(lambda found: _BLANKS.get(found[0]) or chr(int(found[1] or found[2], 16)), word)
