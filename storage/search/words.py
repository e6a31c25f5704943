"""What a search treats as a word, and which forms of it are found."""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import simplemma

MIN_LEMMA_LETTERS = 4

# Of scripts that are written without blanks every character is a word; a term of several is a phrase.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")

_TERM = re.compile(r'"([^"]*)"|(\S+)')

MAX_TERMS = 16
"""Terms of a query that are looked for; further ones are left out."""


class Word(NamedTuple):
    """A word of a text."""

    form: str
    """Casefolded, without accents."""
    start: int
    """Its characters in the text as it was given."""
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
    """One thing that a query asks for: words that follow one another, mostly a single one."""

    forms: tuple[str, ...]
    prefix: bool
    """Whether the last word may go on: `pyth*`."""

    @property
    def lemmas(self) -> tuple[str, ...]:
        return tuple(lemma(form) for form in self.forms)

    @property
    def fts(self) -> str:
        """The query for SQLite's FTS5. Words consist of letters and digits alone, so that nothing in them is an
        operator."""
        star = "*" if self.prefix else ""
        either = f'words : "{" ".join(self.forms)}"{star}'
        return f"({either})" if self.prefix else f'({either} OR lemmas : "{" ".join(self.lemmas)}")'

    def places(self, text: list[Word]) -> Iterator[tuple[int, int]]:
        """Where the term stands in a text: (first character, character after the last)."""
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
    """What a query asks for: words, "phrases" in double quotes, and beginnings of words with a star."""
    found = []
    for phrase, single in _TERM.findall(query):
        forms = tuple(word.form for word in words(phrase or single))
        if forms:
            found.append(Term(forms, prefix=single.endswith("*")))
    return list(dict.fromkeys(found))[:MAX_TERMS]
