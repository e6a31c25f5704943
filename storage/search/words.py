"""What counts as a word in a search, and which of its forms are found."""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import simplemma

MIN_LEMMA_LETTERS = 4

# In scripts without blanks every character counts as a word; a term of several is a phrase.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")

_TERM = re.compile(r'"([^"]*)"|(\S+)')

MAX_TERMS = 16
"""Largest number of terms in a query; further ones are ignored."""


class Word(NamedTuple):
    """A word of a text."""

    form: str
    """The word in lower case (casefolded), without accents."""
    start: int
    """Range of its characters in the given text."""
    stop: int


@lru_cache(maxsize=1 << 16)
def folded(word: str) -> str:
    """A word without case and accents."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", word.casefold()) if not unicodedata.combining(c))
    return plain or word


@lru_cache(maxsize=1 << 18)
def lemma(word: str) -> str:
    """A folded word's English dictionary form; itself where it has none."""
    if len(word) < MIN_LEMMA_LETTERS or not word.isalpha():
        return word
    return folded(simplemma.lemmatize(word, lang="en"))


def words(text: str) -> Iterator[Word]:
    """The words of a text, in order."""
    for found in _WORD.finditer(text):
        yield Word(folded(found[0]), found.start(), found.end())


class Term(NamedTuple):
    """One term of a query: words that follow one another, usually a single one."""

    forms: tuple[str, ...]
    prefix: bool
    """Whether the last word may continue: `pyth*`."""

    @property
    def lemmas(self) -> tuple[str, ...]:
        """The base form of each of its forms."""
        return tuple(lemma(form) for form in self.forms)

    @property
    def fts(self) -> str:
        """The query for SQLite's FTS5. Words consist of letters and digits only, so that nothing in them is an
        operator."""
        star = "*" if self.prefix else ""
        either = f'words : "{" ".join(self.forms)}"{star}'
        return f"({either})" if self.prefix else f'({either} OR lemmas : "{" ".join(self.lemmas)}")'

    def places(self, text: list[Word]) -> Iterator[tuple[int, int]]:
        """Matches of the term in a text: (first character, character after the last)."""
        n, lemmas = len(self.forms), self.lemmas
        for at in range(len(text) - n + 1):
            here = text[at : at + n]
            forms = tuple(word.form for word in here)
            if self.prefix:
                fits = forms[:-1] == self.forms[:-1] and forms[-1].startswith(self.forms[-1])
            else:
                fits = forms == self.forms or tuple(map(lemma, forms)) == lemmas
            if fits:
                yield here[0].start, here[-1].stop


def terms(query: str) -> list[Term]:
    """The terms of a query: words, "phrases" in double quotes, and beginnings of words with a star."""
    found = []
    for phrase, single in _TERM.findall(query):
        forms = tuple(word.form for word in words(phrase or single))
        if forms:
            found.append(Term(forms, prefix=single.endswith("*")))
    return list(dict.fromkeys(found))[:MAX_TERMS]
