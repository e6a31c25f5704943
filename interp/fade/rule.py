"""The `rule` judge: it writes texts from the words that a description names, and rates texts by looking for them.

Offline and deterministic. It knows no synonyms: in free text, it uses the quoted words, or else the longer ones.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import simplemma
from jaxtyping import Bool, Float, Int8, Int64

from interp.descriptions.base_rates import split_words, starts_of_lines
from interp.descriptions.english import LOOSE, Context, Mechanism, Word, meaning_of
from interp.descriptions.kinds import Kind
from interp.display import visible
from interp.fade.judge import Marked, Text
from interp.fade.writing import mechanisms_of, written
from interp.weightlens.description import MIN_LEMMA_LETTERS, Token
from interp.weightlens.settings import WordingSettings

VAGUE = 0.5
"""Expected activity at a word without the context that the description requires."""

PLACES = frozenset({"in", "at the start of a line", "right after"})
"""Contexts that say exactly where a word stands."""

HINT = 0.25
"""Expected activity at a token before one of the promoted tokens, where nothing else is expected."""

_FORMS = WordingSettings().languages

_meaning = lru_cache(maxsize=4096)(meaning_of)
"""Cache of parsed descriptions, so that one is not parsed again for every question about it."""


class _Flat(NamedTuple):
    """Several texts as one array of tokens."""

    texts: Sequence[Text]

    ids: Int64[np.ndarray, " n"]
    owner: Int64[np.ndarray, " n"]
    """The text of each token."""
    start: Int64[np.ndarray, " n_texts"]

    def joined(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """Values for each text's tokens, concatenated."""
        return np.concatenate([np.zeros(0, np.int64), *rows])


class RuleJudge:
    """Implements `Judge` by rule. Each different token is compared with the words of a description only once."""

    def __init__(self) -> None:
        self._number: dict[str, int] = {}
        self._by_form: dict[str, list[int]] = defaultdict(list)
        self._ids: dict[Text, np.ndarray] = {}
        self._masks: dict[tuple[Word, ...], np.ndarray] = {}
        self._word_number: dict[str, int] = {}
        self._within: dict[Text, np.ndarray] = {}
        self._starts: dict[Text, np.ndarray] = {}

    def synthesise(self, description: str, n: int) -> list[str]:
        return written(_meaning(description), n)

    def rate(self, description: str, texts: Sequence[Text]) -> Int8[np.ndarray, " n"]:
        return self._ratings(mechanisms_of(_meaning(description)), texts)

    def rate_continuations(self, description: str, texts: Sequence[Text]) -> Int8[np.ndarray, " n"]:
        meaning = _meaning(description)
        promoted = (Mechanism(meaning.promotes),) if meaning.promotes else ()
        return self._ratings((*meaning.mechanisms, *promoted), texts)

    def marks_right(self, description: str, texts: Sequence[Marked]) -> Int8[np.ndarray, " n"]:
        """1 if at least half of the marked tokens are expected to be active, else 0."""
        expected = self.simulate(description, [marked.text for marked in texts])
        right = [
            np.mean(activity[list(marked.places)] >= VAGUE) >= 0.5
            for marked, activity in zip(texts, expected, strict=True)
        ]
        return np.array(right, np.int8)

    def simulate(self, description: str, texts: Sequence[Text]) -> list[Float[np.ndarray, " _"]]:
        """The activity that the description implies, with a small value before promoted tokens."""
        meaning, flat = _meaning(description), self._flat(texts)
        expected = self._activity(mechanisms_of(meaning), flat)
        if meaning.mechanisms and meaning.promotes:
            follows = self._is_one_of(meaning.promotes)[flat.ids]
            before = np.zeros(len(follows), bool)
            before[:-1] = follows[1:] & (flat.owner[1:] == flat.owner[:-1])
            expected[before] = np.maximum(expected[before], HINT)
        return np.split(expected, flat.start[1:]) if texts else []

    def find_odd(self, description: str, groups: Sequence[Sequence[Marked]]) -> Int8[np.ndarray, " n"]:
        """The text at whose marked tokens the least activity is expected; the first among equals."""
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
        """1 where a word of a mechanism occurs in its contexts; `VAGUE` where it occurs without them, or fires it
        weakly.

        The text after a word cannot have caused the activation, so contexts after it are ignored.
        """
        expected = np.zeros(len(flat.ids), np.float32)
        for mechanism in mechanisms:
            is_word, is_weaker = (self._is_one_of(words)[flat.ids] for words in (mechanism.words, mechanism.weaker))
            contexts = _needed(mechanism.contexts)
            there = np.ones(len(flat.ids), bool)
            for context in contexts:
                there &= self._stands(context, flat)
            vague = (is_word & ~there) | (is_weaker & there)
            expected[vague] = np.maximum(expected[vague], VAGUE)
            expected[there & (is_word | (mechanism.many and bool(contexts)))] = 1
        return expected

    def _stands(self, context: Context, flat: _Flat) -> Bool[np.ndarray, " n"]:
        """At which tokens a context is present."""
        if context.kind == "in":
            wanted = [self._word_number.get(word.casefold(), -2) for word in context.words if isinstance(word, str)]
            return np.isin(flat.joined([self._within[text] for text in flat.texts]), wanted)
        if context.kind == "at the start of a line":
            return flat.joined([self._starts[text] for text in flat.texts]).astype(bool)
        is_context = self._is_one_of(context.words)[flat.ids]
        if context.kind == "right after":
            return _right_behind(is_context, flat)
        if context.kind == "after":
            return _behind(is_context, flat)
        return np.bincount(flat.owner, is_context, len(flat.start))[flat.owner] > is_context

    def _flat(self, texts: Sequence[Text]) -> _Flat:
        rows = [self._ids_of(text) for text in texts]
        lengths = np.array([len(row) for row in rows], np.int64)
        ids = np.concatenate([np.zeros(0, np.int64), *rows])
        return _Flat(texts, ids, np.repeat(np.arange(len(rows)), lengths), np.cumsum(lengths) - lengths)

    def _ids_of(self, text: Text) -> np.ndarray:
        if text not in self._ids:
            for token in text.tokens:
                if token not in self._number:
                    number = self._number[token] = len(self._number)
                    for form in set(_forms(token)):
                        self._by_form[form].append(number)
            self._ids[text] = np.array([self._number[token] for token in text.tokens], np.int64)
            self._starts[text] = starts_of_lines(text.tokens)
            within = self._within[text] = np.full(len(text.tokens), -1)
            for first, last in split_words(text.tokens):
                word = visible("".join(text.tokens[first:last]).strip()).casefold()
                within[first:last] = self._word_number.setdefault(word, len(self._word_number))
        return self._ids[text]

    def _is_one_of(self, words: tuple[Word, ...]) -> Bool[np.ndarray, " n_different"]:
        """Which of the tokens are among some words. Each different token is looked up once and the result is cached."""
        found = self._masks.get(words)
        if found is None or len(found) < len(self._number):
            found = self._masks[words] = np.zeros(len(self._number), bool)
            for form in _wanted(tuple(word for word in words if isinstance(word, str))):
                found[self._by_form.get(form, [])] = True
            for kind in words:
                if isinstance(kind, Kind):
                    found |= np.fromiter(map(kind.holds, self._number), bool, len(self._number))
        return found


def _needed(contexts: Sequence[Context]) -> list[Context]:
    """The contexts without which only half of the activity is expected. `after` is not one of them if another context
    says where the word stands."""
    needed = [one for one in contexts if one.frequency not in LOOSE and one.kind != "right before"]
    has_place = any(one.kind in PLACES for one in contexts)
    return [one for one in needed if not (has_place and one.kind == "after")]


def _right_behind(is_context: Bool[np.ndarray, " n"], flat: _Flat) -> Bool[np.ndarray, " n"]:
    behind = np.zeros(len(is_context), bool)
    behind[1:] = is_context[:-1] & (flat.owner[1:] == flat.owner[:-1])
    return behind


def _behind(is_context: Bool[np.ndarray, " n"], flat: _Flat) -> Bool[np.ndarray, " n"]:
    """Whether a context occurs anywhere earlier in the same text."""
    n_before = np.cumsum(is_context) - is_context
    first = np.minimum(flat.start, max(0, len(n_before) - 1))
    return n_before > n_before[first][flat.owner] if len(n_before) else is_context


@lru_cache(maxsize=4096)
def _wanted(words: tuple[str, ...]) -> frozenset[str]:
    """The forms by which a token matches one of the words: as shown, case-folded, and their lemmas."""
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
