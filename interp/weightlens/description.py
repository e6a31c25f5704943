"""Put validated tokens into words: forms of a word are grouped; punctuation and byte fragments are kept apart."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import simplemma
from rapidfuzz import fuzz

from interp.display import visible
from interp.weightlens.settings import WordingSettings

Kind = Literal["word", "symbol", "bytes"]

MIN_FUZZY_LETTERS = 6
"""Shorter words are never near-duplicates: they differ by one letter too easily."""

MIN_LEMMA_LETTERS = 4
"""Shorter tokens of a byte-pair vocabulary are more often fragments than words."""


@dataclass(frozen=True)
class Token:
    """A vocabulary entry as text; undecodable bytes are written as `<0xE2>`."""

    text: str

    @cached_property
    def kind(self) -> Kind:
        """word: contains a letter or digit; bytes: a piece of a character; symbol: the rest, including whitespace."""
        if self.text.startswith("<0x"):
            return "bytes"
        return "word" if any(character.isalnum() for character in self.text) else "symbol"

    @cached_property
    def folded(self) -> str:
        """The text without case, surrounding space and compatibility variants; symbols are unchanged."""
        if self.kind != "word":
            return self.text
        return unicodedata.normalize("NFKC", self.text).strip().casefold()

    @cached_property
    def shown(self) -> str:
        """The text for a reader: `-ing` for a piece inside a word, visible names for blanks."""
        if self.kind == "word":
            inside = self.text[0].islower() and not self.text[0].isspace()
            return visible(f"-{self.text}" if inside else self.text.strip())
        return visible(self.text)


@lru_cache(maxsize=1 << 16)
def token_of(text: str) -> Token:
    """The token with a text; cached, with what is computed from it."""
    return Token(text)


@dataclass(frozen=True)
class Group:
    """Tokens that count as one word, the strongest first."""

    kind: Kind
    tokens: tuple[Token, ...]

    @property
    def name(self) -> str:
        """The word, in a form that begins a word if there is one."""
        shown = [token.shown for token in self.tokens]
        return next((text for text in shown if not text.startswith("-")), shown[0])


def group(tokens: Sequence[Token], settings: WordingSettings) -> list[Group]:
    """Group tokens, strongest first, into words, symbols and byte fragments; their order is kept.

    Two tokens count as one word if they fold to the same text, have the same lemma in one of the languages, or are
    near-duplicates of the word's first form.
    """
    groups: list[list[Token]] = []
    by_form: dict[str, list[Token]] = {}
    long_words: list[list[Token]] = []
    for token in tokens:
        word = token.folded
        forms = [word, *(_lemmas(word, settings.languages) if token.kind == "word" else ())]
        home = next((by_form[form] for form in forms if form in by_form), None)
        is_long = token.kind == "word" and len(word) >= MIN_FUZZY_LETTERS
        if home is None and is_long:
            home = next((near for near in long_words if _alike(word, near[0].folded, settings.near_duplicate)), None)
        if home is None:
            home = []
            groups.append(home)
            if is_long:
                long_words.append(home)
        home.append(token)
        for form in forms:
            by_form.setdefault(form, home)
    return [Group(members[0].kind, tuple(members)) for members in groups]


@lru_cache(maxsize=1 << 16)
def _lemmas(word: str, languages: tuple[str, ...]) -> tuple[str, ...]:
    """Dictionary forms of a word other than itself; none for short pieces and words with signs."""
    if len(word) < MIN_LEMMA_LETTERS or not word.isalpha():
        return ()
    lemmas = (simplemma.lemmatize(word, lang=language).casefold() for language in languages)
    return tuple(lemma for lemma in lemmas if lemma != word)


def _alike(word: str, other: str, least: float) -> bool:
    return fuzz.ratio(word, other, score_cutoff=least) > 0


def word_list(tokens: Sequence[Token], settings: WordingSettings) -> str:
    """The tokens as a text: `‘officer’, ‘police’; punctuation ‘.’; bytes ‘<0xE2>’`."""
    groups = group(tokens, settings)
    parts = []
    for kind, title in (("word", ""), ("symbol", "punctuation "), ("bytes", "byte fragments ")):
        names = [f"‘{part.name}’" for part in groups if part.kind == kind]
        if names:
            more = len(names) - settings.max_words
            tail = f" and {more} more" if more > 0 else ""
            parts.append(title + ", ".join(names[: settings.max_words]) + tail)
    return "; ".join(parts)
