"""Concepts decided by a token's own text: characters, words and families of words."""

import re
import unicodedata
from collections.abc import Callable

import simplemma

from interp.known_answers.stream import one_of, token

SIGNS = {
    "full stop": ".", "comma": ",", "colon": ":", "semicolon": ";", "question mark": "?", "exclamation mark": "!",
    "hyphen": "-", "slash": "/", "underscore": "_", "double quote": '"', "apostrophe": "'", "equals sign": "=",
    "asterisk": "*", "hash": "#", "plus": "+", "percent sign": "%", "ampersand": "&", "at sign": "@", "greater": ">",
    "less": "<", "vertical bar": "|", "two colons": "::", "ellipsis": "...", "two backticks": "``", "backtick": "`",
    "backslash": "\\", "caret": "^", "tilde": "~", "dollar sign": "$",
}  # fmt: skip
"""Tokens that are one sign, with or without a blank."""

WORDS = {
    "the": "the", "a or an": "a an", "of": "of", "to": "to", "in": "in", "and": "and", "or": "or", "for": "for",
    "with": "with", "on": "on", "by": "by", "from": "from", "at": "at", "as": "as", "that": "that",
    "this or these": "this these those", "it": "it", "its": "its", "he": "he", "she": "she", "they": "they",
    "we": "we", "you": "you", "is": "is", "are": "are", "was": "was", "were": "were", "be": "be", "been": "been",
    "have, has or had": "have has had", "do, does or did": "do does did", "can or could": "can could",
    "may or might": "may might", "will or would": "will would", "must, shall or should": "must shall should",
    "not": "not", "no": "no", "if": "if", "when": "when", "while": "while", "where": "where", "which": "which",
    "who": "who", "what": "what", "but": "but", "because": "because", "so": "so", "than": "than", "then": "then",
    "also": "also", "only": "only", "more or most": "more most", "all": "all", "any": "any", "some": "some",
    "each or every": "each every", "other": "other another", "same": "same", "new": "new", "first": "first",
    "one": "one", "after": "after", "before": "before", "between": "between", "into": "into", "about": "about",
    "there": "there", "use": "use used uses using", "return": "return returns returned", "import": "import imports",
    "class": "class classes", "def": "def", "self": "self", "function": "function functions",
    "method": "method methods", "object": "object objects", "string": "string strings str",
    "list or tuple": "list lists tuple tuples", "file": "file files", "value": "value values",
    "type": "type types", "error": "error errors exception exceptions", "example": "example examples",
    "module": "module modules package packages", "None, True or False": "none true false",
}  # fmt: skip
"""Words in any case, and pairs of words with nearly the same meaning."""

FAMILIES = {
    "personal pronouns": "i you he she it we they me him her us them",
    "possessives": "my your his her its our their",
    "forms of be": "be am is are was were been being",
    "prepositions": "of in on at by for from with to into onto over under between through during about against within",
    "conjunctions": "and or but nor yet so because although though while if unless",
    "question words": "who what when where which why how whose whom",
    "numbers as words": "one two three four five six seven eight nine ten eleven twelve hundred thousand million",
    "ordinals": "first second third fourth fifth sixth seventh eighth ninth tenth last",
    "colours": "red green blue yellow black white orange purple brown grey gray pink",
    "family": "mother father son daughter brother sister wife husband parents child children family uncle aunt mom dad",
    "weekdays": "monday tuesday wednesday thursday friday saturday sunday",
    "saying": "said says say told asked replied answered called stated",
    "war": "war army battle troops soldiers military forces attack regiment brigade division navy",
    "units": "km miles metres meters feet inches kg pounds hours minutes seconds seconds bytes bits degrees",
    "directions": "north south east west northern southern eastern western left right",
}  # fmt: skip

CASED = {
    "month names": "January February March April May June July August September October November December",
    "names of persons": "John James William George Robert Thomas David Michael Charles Henry Richard Peter Paul Mary "
    "Anne Elizabeth Tom Lily Max Sam Ben Mia Sarah Jane Jack Anna Tim Lucy Emma Alice Guido Eric Fred",
    "countries and cities": "America Britain England France Germany Italy Spain Russia China Japan India Australia "
    "Canada Ireland Scotland Europe London Paris York Berlin Rome American British English French German Japanese",
}
"""Words with a capital."""

PYTHON = "and as assert async await break class continue def del elif else except finally for from global if import in "
PYTHON += "is lambda nonlocal not or pass raise return try while with yield"


def _sign(sign: str) -> Callable[[str], bool]:
    return lambda text: text.strip() == sign


def _cased(words: str) -> Callable[[str], bool]:
    known = frozenset(words.split())
    return lambda text: text.strip() in known


def _matches(pattern: str) -> Callable[[str], bool]:
    found = re.compile(pattern)
    return lambda text: found.fullmatch(text) is not None


def _ends(ending: str) -> Callable[[str], bool]:
    """Whole words of five letters or more with an ending."""
    return _matches(rf" [A-Za-z]{{{max(1, 5 - len(ending))},}}{ending}")


def _plural_noun(text: str) -> bool:
    """A whole word in s that the table of lemmas lists as a form of the same word without it."""
    word = text.strip().casefold()
    if not re.fullmatch(r" [A-Za-z]+s", text) or len(word) < 4:
        return False
    lemma = simplemma.lemmatize(word, lang="en")
    return lemma != word and word in (lemma + "s", lemma + "es", lemma[:-1] + "ies")


def _of_script(name: str) -> Callable[[str], bool]:
    return lambda text: any(name in unicodedata.name(sign, "") for sign in text)


CONCEPTS = (
    token("digits", lambda text: text.strip().isdigit()),
    token("one digit", _matches(r" ?\d")),
    token("numbers of several digits", _matches(r" ?\d{2,}")),
    token("years", _matches(r" ?(1[5-9]|20)\d\d")),
    token("line ends", lambda text: "\n" in text and not text.strip()),
    token("empty lines", _matches(r"[^\S\n]*\n[^\S\n]*\n\s*")),
    token("indentation", _matches(r"\n[ \t]+| {2,}|\t+")),
    token("punctuation", lambda text: bool(text.strip()) and not any(c.isalnum() for c in text)),
    token("opening brackets", lambda text: text.strip() in ("(", "[", "{")),
    token("closing brackets", lambda text: text.strip() in (")", "]", "}")),
    token("opening round bracket", _matches(r"[^\w]*\([^\w]*")),
    token("closing round bracket", _matches(r"[^\w]*\)[^\w]*")),
    token("opening square bracket", _matches(r"[^\w]*\[[^\w]*")),
    token("closing square bracket", _matches(r"[^\w]*\][^\w]*")),
    token("quotes", _matches(r""" ?["'“”‘’`]+""")),
    token("dashes", _matches(r" ?[–—]| ?-{2,}")),
    token("Python keywords", _cased(PYTHON)),
    token("capitalised words", _matches(r" [A-Z][a-z]+")),
    token("words in capitals", _matches(r" ?[A-Z]{2,}")),
    token("single capitals", _matches(r" ?[A-Z]")),
    token("single small letters", _matches(r" [a-z]")),
    token("pieces of words", _matches(r"[a-z]+")),
    token("plural nouns", _plural_noun),
    *(
        token(f"words in -{ending}", _ends(ending))
        for ending in ("ing", "ed", "ly", "tion", "er", "al", "ment", "able")
    ),
    token("Cyrillic", _of_script("CYRILLIC")),
    token("Greek", _of_script("GREEK")),
    token("Chinese or Japanese", _of_script("CJK")),
    token("letters with accents", _of_script("LATIN SMALL LETTER E WITH ")),
    token("bytes of characters", _matches(r"(<0x[0-9A-F]{2}>)+")),
    *(token(name, _sign(sign)) for name, sign in SIGNS.items()),
    *(token(f"‘{name}’", one_of(words)) for name, words in WORDS.items()),
    *(token(name, one_of(words)) for name, words in FAMILIES.items()),
    *(token(name, _cased(words)) for name, words in CASED.items()),
)
"""Names of concepts that consist of one word are in quotation marks."""
