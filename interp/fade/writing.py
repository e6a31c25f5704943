"""Write texts that show what a description by rule says, from the description alone."""

import hashlib
from collections.abc import Sequence

from interp.descriptions.english import LOOSE, STRONGEST, Meaning, Mechanism, Word
from interp.display import unescaped

OPENINGS = (
    "", "It was", "They said that", "He looked at", "There is a", "One day", "She likes", "We found", "In the end",
    "This is about", "You can see", "Then came", "I know", "Look,", "He asked for", "All of", "At last,", "Once",
)  # fmt: skip
"""Beginnings of sentences, so that texts differ in what does not matter."""

ENDINGS = (" again.", " and so on.", " was there.", " here.", " as well.")

STEMS = ("7", "re", "(", "st", "42", "ca", "-", "un", "3", "mo", "_", "be", "x9", "de", "1")
"""Stems that pieces of words are attached to. The tokenizer does not merge letters with digits and signs, so the piece
stays a token."""

SENTENCES = 4
"""Sentences of a text: it is about as long as a natural text, so that both activate the feature by chance equally
often."""

BY_RANK = 1.5
"""The word at rank r (from 1) gets a share of the sentences in proportion to 1 / r to this power."""

WEAKER = 0.1
"""A word that fires the feature weakly gets this part of the share."""

ALSO = 0.05
"""A word named after `also` gets this part of the share, since it is not the feature's main cause."""


def written(meaning: Meaning, n: int) -> list[str]:
    """At most `n` different texts about the named words, in their contexts if they have any. Words named earlier get
    more sentences and those that fire the feature weakly get few; shares are rounded by Sainte-Laguë's method for
    seats."""
    mechanisms = mechanisms_of(meaning)
    named = [
        (mechanism, word, ALSO if at else 1.0) for at, mechanism in enumerate(mechanisms) for word in mechanism.words
    ]
    named += [(mechanism, word, WEAKER) for mechanism in mechanisms for word in mechanism.weaker]
    writers = [
        _Writer(mechanism, word, part / (1 + at) ** BY_RANK)
        for at, (mechanism, word, part) in enumerate(named)
        if isinstance(word, str) or word.examples
    ]
    writers = [writer for writer in writers if not writer.is_of_bytes] or writers
    texts: dict[str, None] = {}
    for at in range(len(writers) * len(OPENINGS) * len(ENDINGS)):
        if len(texts) == n:
            break
        texts[_text(writers, at)] = None
    return list(texts)


def _text(writers: Sequence["_Writer"], at: int) -> str:
    """The next text. Each sentence is about the word with the highest claim; if texts about the first have a topic, it
    stands before them."""
    sentences, about = [], ()
    for place in range(SENTENCES):
        writer = max(writers, key=_Writer.claim)
        sentences.append(writer.next_sentence())
        about = about if place else writer.about
    text = " ".join(sentences)
    return f"{_plain(_one_of(about, at))}: {text}" if about else text


def mechanisms_of(meaning: Meaning) -> tuple[Mechanism, ...]:
    """The mechanisms of a description; if it has none, its promoted words are treated as one."""
    return meaning.mechanisms or (Mechanism(meaning.promotes),)


class _Writer:
    """The sentences about one word, in an order that depends on the word, and how many were taken."""

    def __init__(self, mechanism: Mechanism, word: Word, weight: float) -> None:
        name = word if isinstance(word, str) else word.name
        self.is_of_bytes = isinstance(word, str) and word.startswith("<0x")
        self.about = next((context.words for context in mechanism.contexts if context.kind == "in texts with"), ())
        self._mechanism, self._word, self._weight = mechanism, word, weight
        self._first = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 9973
        self._n_written = 0

    def claim(self) -> float:
        """Priority of this word; the word with the highest gets the next sentence."""
        return self._weight / (self._n_written + 0.5)

    def next_sentence(self) -> str:
        turn = self._first + self._n_written
        self._n_written += 1
        return _sentence(self._mechanism, _one_of((self._word,), turn), turn)


def _one_of(words: tuple[Word, ...], turn: int) -> str:
    """One of some words; for a kind, one of its examples."""
    word = words[turn % len(words)]
    if isinstance(word, str):
        return word
    return word.examples[turn // len(words) % len(word.examples)] if word.examples else ""


def _sentence(mechanism: Mechanism, word: str, turn: int) -> str:
    opening, ending = OPENINGS[turn % len(OPENINGS)], ENDINGS[turn % len(ENDINGS)]
    loose = LOOSE - {STRONGEST}
    said = {
        one.kind: one.words
        for one in mechanism.contexts
        if one.kind == "after" or turn % 2 == 0 or one.frequency not in loose
    }
    text, before = None, opening
    if "after" in said:
        before = _append(opening, _one_of(said["after"], turn), turn + 5) + (" then" if turn % 2 else "")
    if "in" in said:
        text = _as_part_of(before, said["in"], word, turn)
    elif "at the start of a line" in said:
        text = f"{before}\n{_plain(word)}"
    elif "right after" in said:
        text = _attach(_append(before, _one_of(said["right after"], turn), turn + 5), word, turn)
    text = _append(before, word, turn) if text is None else text
    if "right before" in said:
        text = _attach(text, _one_of(said["right before"], turn), turn)
    return text + (_sentence_case(ending) if text.endswith("\n") else ending)  # the line break replaces the blank


def _sentence_case(ending: str) -> str:
    return ending.lstrip().capitalize()


def _as_part_of(opening: str, words: tuple[Word, ...], word: str, turn: int) -> str | None:
    """A text that contains a piece of a word within a whole word; None where there is none."""
    plain = _plain(word).casefold()
    holding = tuple(one for one in words if isinstance(one, str) and plain in one.casefold())
    return _append(opening, _one_of(holding, turn), turn) if holding else None


def _append(text: str, word: str, turn: int) -> str:
    """A text followed by a word; a piece of a word is attached to a stem."""
    plain = _plain(word)
    if _is_piece(word):
        plain = STEMS[turn % len(STEMS)] + plain
    return f"{text} {plain}" if text and _holds_word(plain) else text + plain


def _attach(text: str, word: str, turn: int) -> str:
    """A text directly followed by a word. A piece continues the last word; after a sign within a sentence, a word is
    written both with and without a blank, as in natural text."""
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


def _plain(word: str) -> str:
    """A word as it is written in text: names given by `visible` are turned back, and the hyphen of a piece is
    removed."""
    return unescaped(word[1:] if _is_piece(word) else word)
