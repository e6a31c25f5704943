"""Kinds of tokens that are better named than listed: numbers, months, closing brackets, words that end in ‘-tion’."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from interp.display import unescaped

MIN_LETTERS = 2
"""Shortest beginning or ending of words that makes a kind."""

MAX_LETTERS = 5


@dataclass(frozen=True)
class Kind:
    """Tokens of one kind. A leading blank belongs to a token, but does not matter for its kind."""

    name: str
    """Its name in descriptions, in the plural; a beginning or ending of words is in quotation marks."""
    pattern: str
    """Regular expression that matches the whole text of a token."""
    examples: tuple[str, ...]
    """Some of its members, for writing example texts."""

    def holds(self, text: str) -> bool:
        """Whether a token's text belongs to the kind."""
        return _matches(self.pattern, text)

    def names(self, word: str) -> bool:
        """The same for a word as a description shows it, for example `-ing` for a piece of a word."""
        is_piece = len(word) > 1 and word[0] == "-" and word[1].isalnum()
        return _matches(self.pattern, word[1:] if is_piece else unescaped(word))

    @property
    def is_unseen(self) -> bool:
        """Whether its tokens show nothing to a reader: white space and bytes."""
        return not any(example.strip() for example in self.examples)


@lru_cache(maxsize=1 << 17)
def _matches(pattern: str, text: str) -> bool:
    return re.fullmatch(pattern, text) is not None


def _words(name: str, words: str) -> Kind:
    """A pattern for a closed class of words, in upper or lower case."""
    members = tuple(words.split())
    return Kind(name, rf"(?i) ?(?:{'|'.join(members)})", members)


def _signs(name: str, pattern: str, examples: str) -> Kind:
    return Kind(name, pattern, tuple(examples.split()))


KINDS = (
    _signs("years", r" ?(?:1[5-9]|20)\d\d", "1987 2004 1999 2012 1865 1914 2021"),
    _signs("digits", r" ?\d", "3 7 1 8 0 5 2 9 4 6"),
    _signs("numbers", r" ?\d+", "3 12 64 7 100 25 8 2004 16 0 1999 42"),
    _words("numbers in words", "one two three four five six seven eight nine ten eleven twelve twenty thirty hundred "
           "thousand million billion"),
    _words("ordinal numbers", "first second third fourth fifth sixth seventh eighth ninth tenth"),
    _words("months", "January February March April May June July August September October November December"),
    _words("days of the week", "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    _words("forms of the verb be", "am is are was were be been being"),
    _words("forms of the verb have", "have has had having"),
    _words("forms of the verb do", "do does did done doing"),
    _words("modal verbs", "can could will would shall should may might must cannot"),
    _words("personal pronouns", "i you he she it we they me him us them"),
    _words("possessives", "my your his her its our their whose"),
    _words("articles", "a an the"),
    _words("demonstratives", "this that these those"),
    _words("prepositions", "of in to for on with at by from about into over under between through during against "
           "without within among across toward towards upon"),
    _words("coordinating conjunctions", "and or but nor"),
    _words("subordinating conjunctions", "if when while because although though unless until since whereas whether"),
    _words("question words", "who what when where why how which whom"),
    _words("negations", "not no never none nothing neither cannot"),
    _signs("keywords of Python", r" ?(?:def|elif|else|lambda|class|return|import|try|except|finally|raise|yield|async|"
           r"await|global|nonlocal|del|assert|None|True|False)", "def else class return import try except None True"),
    _signs("parts of web addresses", r" ?(?:https?|www|:?//|://|\.(?:com|org|net|edu|gov|html?))",
           "http https :// www .com .org"),
    _signs("single capital letters", r" ?[A-Z]", "A B C D E F G H K L M N P R S T"),
    _signs("words in capitals", r" ?[A-Z]{2,}", "NOT ID API URL OS IN AND HTTP"),
    _signs("capitalised words", r" ?[A-Z][a-z]+", "The In Python This John London When"),
    _signs("tokens with an underscore", r" ?\w*_\w*", "_ __ _name _to _id"),
    _signs("opening brackets", r" ?[^\w\s]*[(\[{]", "( [ {"),
    _signs("closing brackets", r" ?[)\]}][^\w\s]*", ") ] } ). ),"),
    _signs("quotation marks", r" ?[^\w\s]*[\"'`“”„«»‘’][^\w\s]*", "\" ' ` “ ”"),
    _signs("ends of sentences", r" ?[.!?…]+", ". ! ?"),
    _signs("dashes", r" ?[-–—]+", "- – —"),
    _signs("operators", r" ?(?:[-+*/%=<>&|^~]|[-+*/%=<>!&|^:]=|->|\*\*|//|<<|>>|&&|\|\|)", "= + - * / == < >"),
    _signs("punctuation marks", r" ?[^\w\s]+", ", . ; : ! ? ( ) - \""),
    Kind("line breaks", r"[ \t\r]*\n\s*", ("\n", "\n   ", "\n\n", "\n       ", "\n\n   ")),
    Kind("blanks", r"[ \t]+", ("   ", "  ", "       ", "    ")),
    Kind("white space", r"\s+", ("\n", "   ", "\n   ", "       ", "\n\n   ")),
    Kind("bytes of characters beyond ASCII", r"(?:<0x[89A-F][0-9A-F]>)+", ()),
    _signs("Chinese characters", r" ?[\u3400-\u9fff]+", "中 的 是 不 了 人"),
    _signs("Japanese kana", r" ?[\u3040-\u30ff]+", "の は を が ア イ"),
    _signs("Korean letters", r" ?[\uac00-\ud7a3]+", "이 는 을 가"),
    _signs("Cyrillic letters", r" ?[\u0400-\u04ff]+", "и в на не по"),
    _signs("Greek letters", r" ?[\u0370-\u03ff]+", "β δ και το"),
    _signs("Arabic letters", r" ?[\u0600-\u06ff]+", "ال في من"),
    _signs("Hebrew letters", r" ?[\u0590-\u05ff]+", "של את לא"),
    _signs("words with accented letters", r" ?[A-Za-z]*[\u00c0-\u024f][A-Za-z\u00c0-\u024f]*", "é für más à"),
)  # fmt: skip
"""The kinds with a fixed name, narrower ones before wider ones."""

BY_NAME = {kind.name: kind for kind in KINDS}

_STEMS = ("re", "st", "con", "per", "l", "br", "gr", "mar")

_REST = ("s", "ing", "ed", "er", "al", "ment", "able", "")


@lru_cache(maxsize=4096)
def words_that_end_in(letters: str) -> Kind:
    """Words, and pieces of words, that have an ending in common."""
    examples = tuple(stem + letters for stem in _STEMS)
    return Kind(f"words that end in ‘-{letters}’", rf"(?i) ?[^\W\d_]*{re.escape(letters)}", examples)


@lru_cache(maxsize=4096)
def words_that_begin_with(letters: str) -> Kind:
    """Words that have a beginning in common."""
    examples = tuple(letters + rest for rest in _REST)
    return Kind(f"words that begin with ‘{letters}-’", rf"(?i) ?{re.escape(letters)}[^\W\d_]*", examples)


@lru_cache(maxsize=1 << 16)
def named_kinds(text: str) -> tuple[Kind, ...]:
    """The kinds of `KINDS` that a token belongs to."""
    return tuple(kind for kind in KINDS if kind.holds(text))


@lru_cache(maxsize=1 << 16)
def letter_kinds(text: str) -> tuple[Kind, ...]:
    """The kinds by beginning and ending that a token belongs to; empty unless it is all letters."""
    word = text.strip().casefold()
    if not word.isascii() or not word.isalpha():
        return ()
    lengths = range(min(MAX_LETTERS, len(word)), MIN_LETTERS - 1, -1)  # among equals, the longest is named
    endings = [words_that_end_in(word[-length:]) for length in lengths]
    begins = text[:1] == " " or text[:1].isupper()
    return (*endings, *(words_that_begin_with(word[:length]) for length in lengths if begins and length > MIN_LETTERS))


def kinds_of(text: str) -> tuple[Kind, ...]:
    """All kinds that a token belongs to."""
    return (*named_kinds(text), *letter_kinds(text))


def members(texts: Iterable[str]) -> dict[Kind, list[str]]:
    """The given tokens by kind; a token can be in several."""
    found: dict[Kind, list[str]] = {}
    for text in texts:
        for kind in kinds_of(text):
            found.setdefault(kind, []).append(text)
    return found
