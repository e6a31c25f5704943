"""Texts that show what a description by rule says, written from the description alone."""

import hashlib
from collections.abc import Iterator

from interp.descriptions.english import LOOSE, STRONGEST, Meaning, Mechanism, Word
from interp.display import unescaped

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

ALSO = 0.05
"""Part of that which a word has that is named with `also`: it is not what drives the feature most."""


def written(meaning: Meaning, n: int) -> list[str]:
    """At most `n` different texts about the words that are named, in their contexts where they have one: the more, the
    earlier a word is named, and few of words that fire the feature weakly (shares as in Sainte-Laguë's method for
    seats)."""
    mechanisms = ways_to_fire(meaning)
    named = [
        (mechanism, word, ALSO if at else 1.0) for at, mechanism in enumerate(mechanisms) for word in mechanism.words
    ]
    named += [(mechanism, word, WEAKER) for mechanism in mechanisms for word in mechanism.weaker]
    writers = [
        _Writer(mechanism, word, part / (1 + at) ** BY_RANK)
        for at, (mechanism, word, part) in enumerate(named)
        if isinstance(word, str) or word.examples
    ]
    waiting = [writer for writer in writers if not writer.is_of_bytes] or writers
    texts: dict[str, None] = {}
    while waiting and len(texts) < n:
        writer = max(waiting, key=_Writer.claim)
        text = writer.next_text()
        if text is None:
            waiting.remove(writer)
        elif text:
            texts[text] = None
    return list(texts)


def ways_to_fire(meaning: Meaning) -> tuple[Mechanism, ...]:
    """The ways to fire; what is promoted is taken for one where nothing else is said."""
    return meaning.mechanisms or (Mechanism(meaning.promotes),)


class _Writer:
    """Texts about one word, and how many it has had."""

    def __init__(self, mechanism: Mechanism, word: Word, weight: float) -> None:
        self.is_of_bytes = isinstance(word, str) and word.startswith("<0x")
        self._weight, self._n_written, self._texts = weight, 0, _texts(mechanism, word)

    def claim(self) -> float:
        """Who has the greatest writes next."""
        return self._weight / (self._n_written + 0.5)

    def next_text(self) -> str | None:
        self._n_written += 1
        return next(self._texts, None)


def _texts(mechanism: Mechanism, word: Word) -> Iterator[str]:
    """Texts in which a word occurs, in its contexts, in an order of their own for every word."""
    name = word if isinstance(word, str) else word.name
    start = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 9973
    about = next((context.words for context in mechanism.contexts if context.kind == "in texts with"), ())
    for at in range(len(OPENINGS) * len(ENDINGS)):
        turns = range(start + at * SENTENCES, start + (at + 1) * SENTENCES)
        text = " ".join(_sentence(mechanism, _one_of((word,), turn), turn) for turn in turns)
        yield f"{_plain(_one_of(about, at))}: {text}" if about else text


def _one_of(words: tuple[Word, ...], turn: int) -> str:
    """One of some words; of a kind, one of its examples."""
    word = words[turn % len(words)]
    if isinstance(word, str):
        return word
    return word.examples[turn // len(words) % len(word.examples)] if word.examples else ""


def _sentence(mechanism: Mechanism, word: str, turn: int) -> str:
    opening, ending = OPENINGS[turn % len(OPENINGS)], ENDINGS[turn % len(ENDINGS)]
    said = {
        one.kind: one.words for one in mechanism.contexts if turn % 2 == 0 or one.frequency not in LOOSE - {STRONGEST}
    }
    text = None
    if "in" in said:
        text = _as_part_of(opening, said["in"], word, turn)
    elif "at the start of a line" in said:
        text = f"{opening}\n{_plain(word)}"
    elif "right after" in said:
        text = _attach(_append(opening, _one_of(said["right after"], turn), turn + 5), word, turn)
    elif "after" in said:
        behind = _append(opening, _one_of(said["after"], turn), turn + 5)
        text = _append(behind + (" then" if turn % 2 else ""), word, turn)
    text = _append(opening, word, turn) if text is None else text
    if "right before" in said:
        text = _attach(text, _one_of(said["right before"], turn), turn)
    return text + (_sentence_case(ending) if text.endswith("\n") else ending)  # a blank would belong to the break


def _sentence_case(ending: str) -> str:
    return ending.lstrip().capitalize()


def _as_part_of(opening: str, words: tuple[Word, ...], word: str, turn: int) -> str | None:
    """A text with a word that holds a piece; None where none does."""
    plain = _plain(word).casefold()
    holding = tuple(one for one in words if isinstance(one, str) and plain in one.casefold())
    return _append(opening, _one_of(holding, turn), turn) if holding else None


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


def _plain(word: str) -> str:
    """A word as it stands in a text: what `visible` names is written out again, the hyphen of a piece left off."""
    return unescaped(word[1:] if _is_piece(word) else word)
