"""The `rule` judge: writes texts from the words that a description names, and rates texts by finding them.

Offline and deterministic. It knows no synonyms: of free text, it takes the quoted or else the longer words.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice, zip_longest

import numpy as np
import simplemma
from jaxtyping import Float, Int8

from interp.descriptions.wording import Meaning, Mechanism, meaning_of
from interp.fade.judge import Marked, Text
from interp.weightlens.description import MIN_LEMMA_LETTERS, Token
from interp.weightlens.settings import WordingSettings

OPENINGS = (
    "", "It was", "They said that", "He looked at", "There is a", "One day", "She likes", "We found", "In the end",
    "This is about", "You can see", "Then came", "I know", "Look,", "He asked for", "All of", "At last,", "Once",
)  # fmt: skip
"""What texts begin with, so that they differ in what does not matter."""

ENDINGS = ("", ".", " and", ", too.", " again", " was there.", " here")

STEMS = ("", "7", "re", "(", "st", "42", "ca", "-", "un", "3", "mo", "_", "be", "x9", "de", "1")
"""What pieces of words are attached to. Letters do not merge with digits and signs, so that the piece is a token."""

VAGUE = 0.5
"""Expected activity where a word stands without the context that the description says."""

_FORMS = WordingSettings().languages


class RuleJudge:
    """Implements `Judge`."""

    def synthesise(self, description: str, n: int) -> list[str]:
        """Texts for every word in turn, behind its context where it has one."""
        meaning = meaning_of(description)
        mechanisms = meaning.mechanisms or (Mechanism(meaning.promotes),)
        writers = [_texts(mechanism, word) for mechanism in mechanisms for word in mechanism.words]
        rounds = zip_longest(*(islice(writer, n) for writer in writers))
        texts = dict.fromkeys(text for texts in rounds for text in texts if text)
        return list(texts)[:n]

    def rate(self, description: str, texts: Sequence[Text]) -> Int8[np.ndarray, " n"]:
        meaning = meaning_of(description)
        return _ratings(meaning if meaning.mechanisms else Meaning((Mechanism(meaning.promotes),)), texts)

    def rate_continuations(self, description: str, texts: Sequence[Text]) -> Int8[np.ndarray, " n"]:
        meaning = meaning_of(description)
        promoted = (Mechanism(meaning.promotes),) if meaning.promotes else ()
        return _ratings(Meaning((*meaning.mechanisms, *promoted)), texts)

    def marks_right(self, description: str, texts: Sequence[Marked]) -> Int8[np.ndarray, " n"]:
        """Right if at least half of the marked tokens are expected to be active."""
        expected = self.simulate(description, [marked.text for marked in texts])
        right = [
            np.mean(activity[list(marked.places)] >= VAGUE) >= 0.5
            for marked, activity in zip(texts, expected, strict=True)
        ]
        return np.array(right, np.int8)

    def simulate(self, description: str, texts: Sequence[Text]) -> list[Float[np.ndarray, " n_pos"]]:
        meaning = meaning_of(description)
        mechanisms = meaning.mechanisms or (Mechanism(meaning.promotes),)
        return [_activity(mechanisms, text) for text in texts]


def _ratings(meaning: Meaning, texts: Sequence[Text]) -> Int8[np.ndarray, " n"]:
    peaks = [_activity(meaning.mechanisms, text).max(initial=0.0) for text in texts]
    return np.array([2 if peak == 1 else 1 if peak > 0 else 0 for peak in peaks], np.int8)


def _activity(mechanisms: Sequence[Mechanism], text: Text) -> Float[np.ndarray, " n_pos"]:
    """1 where a mechanism's word stands in its context, `VAGUE` where the word stands alone."""
    expected = np.zeros(len(text.tokens), np.float32)
    for mechanism in mechanisms:
        is_word = _found(mechanism.words, text)
        if not mechanism.after:
            expected[is_word] = 1
            continue
        is_context = _found(mechanism.after, text)
        before = np.zeros(len(is_context), bool)
        before[1:] = is_context[:-1] if mechanism.right_after else np.logical_or.accumulate(is_context)[:-1]
        expected[is_word & ~before] = np.maximum(expected[is_word & ~before], VAGUE)
        expected[before & (is_word | mechanism.many)] = 1
    return expected


def _found(words: tuple[str, ...], text: Text) -> np.ndarray:
    """At which tokens one of the words stands."""
    known = _verdicts(words)
    return np.array([known[token] for token in text.tokens], bool)


class _Verdicts(dict[str, bool]):
    """Whether a token is one of some words; each token is looked at once."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self._wanted = _wanted(words)

    def __missing__(self, token: str) -> bool:
        self[token] = _is_one_of(token, self._wanted)
        return self[token]


@lru_cache(maxsize=256)
def _verdicts(words: tuple[str, ...]) -> _Verdicts:
    return _Verdicts(words)


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


def _is_one_of(token: str, wanted: frozenset[str]) -> bool:
    return any(form in wanted for form in _forms(token))


def _texts(mechanism: Mechanism, word: str) -> Iterator[str]:
    """Texts in which a word occurs, in its context, in an order of their own for every word."""
    start = int(hashlib.sha256(word.encode()).hexdigest(), 16) % 9973
    for at in range(len(OPENINGS) * len(STEMS)):
        opening = OPENINGS[(start + at) % len(OPENINGS)]
        ending = ENDINGS[(start + at) % len(ENDINGS)]
        context = mechanism.after[at % len(mechanism.after)] if mechanism.after else None
        text = opening
        if context is not None:
            text = _append(text, context, STEMS[(at + 5) % len(STEMS)])
            if not mechanism.right_after and at % 2:
                text += " then"
        yield _append(text, word, STEMS[at % len(STEMS)]) + ending


def _append(text: str, word: str, stem: str) -> str:
    """A text with a word behind it; a piece of a word is attached to a stem."""
    blank = {"\\n": "\n", "\\t": "\t", "\\r": "\r"}
    if word.startswith("-") and len(word) > 1 and word[1].isalnum():
        return f"{text} {stem}{word[1:]}".strip() if stem else (f"{text}{word[1:]}" if text else word[1:])
    plain = word.replace("␣", " ")
    for name, character in blank.items():
        plain = plain.replace(name, character)
    if not any(character.isalnum() for character in plain):
        return text + plain
    return f"{text} {plain}" if text else plain
