"""Concepts decided by the text before a token. No program looks ahead, since no feature can."""

import re

import numpy as np

from interp.known_answers.stream import Concept, Mask, Stream, one_of

NEAR = 64
"""Number of earlier tokens among which a repetition is looked for."""

LANGUAGES = {
    "German": "der die das und nicht ist ein eine mit von zu den dem auf für sich",
    "French": "le la les des et est une un du dans que qui pour pas sur au",
    "Spanish": "el la los las de y que en un una por con para es del se",
}
"""Frequent words, by which a language is recognised."""

SPOKEN = 4
"""A text is in a language if at least this many of the last 16 tokens are such words."""

PAIRS = (
    "the of", "the in", "the to", "the on", "the for", "the and", "the from", "the by", "the with", "the that", "a is",
    "a as", "a of", "be to", "be can", "be will", "be may", "not is", "not does", "not do", "is it", "is this",
    "been has", "been had", "as such", "as well", "of one", "of number", "of name", "same the", "first the", "if the",
    "are there", "it if", "can you", "was it", "was he", "his of", "for example", "import from", "self (",
)  # fmt: skip
"""A token and the token directly before it."""


def _said(words: str, stream: Stream) -> Mask:
    return stream.where(one_of(words))


def _pair(pair: str) -> Concept:
    this, before = pair.split()
    return Concept(f"‘{this}’ right after ‘{before}’", lambda s: _said(this, s) & s.after(_said(before, s)))


def _behind(name: str, words: str) -> Concept:
    """Any token directly after one of some words."""
    return Concept(f"right after {name}", lambda stream: stream.after(_said(words, stream)))


def _is_word(stream: Stream) -> Mask:
    return stream.where(lambda text: any(sign.isalpha() for sign in text))


def _is_capital(stream: Stream) -> Mask:
    return stream.where(lambda text: re.fullmatch(r" ?[A-Z][A-Za-z]*", text) is not None)


def _ends_sentence(stream: Stream) -> Mask:
    return stream.where(lambda text: text.rstrip().endswith((".", "!", "?")))


def _ends_line(stream: Stream) -> Mask:
    return stream.where(lambda text: text.rstrip(" ").endswith("\n"))


def _is_digit(stream: Stream) -> Mask:
    return stream.where(lambda text: text.strip().isdigit())


def _first_of_line(stream: Stream) -> Mask:
    """The first token of a line that is not blank."""
    blank = stream.where(lambda text: not text.strip())
    in_margin = stream.after(_ends_line(stream))
    for at in np.flatnonzero(blank[:-1]):
        in_margin[at + 1] |= (in_margin[at] or "\n" in stream.vocabulary[stream.ids[at]]) and not stream.starts[at + 1]
    return in_margin & ~blank


def _inside(stream: Stream, opening: str, closing: str) -> Mask:
    """Tokens between an opening sign and its closing sign; where both are the same, they open and close in turn."""
    found = np.zeros(len(stream.ids), bool)
    depth = 0
    for at, text in enumerate(stream.texts()):
        depth = 0 if stream.starts[at] else depth
        found[at] = depth > 0
        if opening == closing:
            depth = (depth + text.count(opening)) % 2
        else:
            depth = max(0, depth + text.count(opening) - text.count(closing))
    return found


def _inside_address(stream: Stream) -> Mask:
    """Tokens of a URL, from after `://` to the next blank."""
    found = np.zeros(len(stream.ids), bool)
    said = ""
    for at, text in enumerate(stream.texts()):
        said = "" if stream.starts[at] or text[:1].isspace() else said
        found[at] = "://" in said
        said = "" if text[-1:].isspace() else (said + text)[-200:]
    return found


def _closes(stream: Stream) -> Mask:
    return _inside(stream, "(", ")") & stream.where(lambda text: ")" in text)


def _repeated(stream: Stream) -> Mask:
    """Words that occur among the `NEAR` tokens before."""
    first = np.maximum.accumulate(np.where(stream.starts, np.arange(len(stream.ids)), 0))
    last = _last_before(stream.ids)
    long_word = stream.where(lambda text: len(text.strip()) > 3 and text.strip().isalpha())
    return (last >= first) & (np.arange(len(last)) - last <= NEAR) & long_word


def _last_before(ids: np.ndarray) -> np.ndarray:
    """The last earlier position of each id, -1 if there is none."""
    order = np.lexsort((np.arange(len(ids)), ids))
    last = np.full(len(ids), -1)
    same = ids[order[1:]] == ids[order[:-1]]
    last[order[1:][same]] = order[:-1][same]
    return last


def _induced(stream: Stream) -> Mask:
    """Tokens that followed the same token at its last occurrence."""
    first = np.maximum.accumulate(np.where(stream.starts, np.arange(len(stream.ids)), 0))
    last = _last_before(stream.ids)
    found = np.zeros(len(stream.ids), bool)
    at = np.flatnonzero(~stream.starts)
    before = last[at - 1]
    known = before >= first[at - 1]
    found[at[known]] = stream.ids[before[known] + 1] == stream.ids[at[known]]
    return found


def _again(stream: Stream) -> Mask:
    same = np.zeros(len(stream.ids), bool)
    same[1:] = stream.ids[1:] == stream.ids[:-1]
    return same & ~stream.starts


def _language(words: str) -> Concept:
    name = next(language for language, known in LANGUAGES.items() if known == words)
    return Concept(f"{name} text", lambda stream: stream.within(_said(words, stream), 16) >= SPOKEN)


CONCEPTS = (
    Concept("capital after the end of a sentence", lambda s: _is_capital(s) & s.after(_ends_sentence(s))),
    Concept("capital after a capital", lambda s: _is_capital(s) & s.after(_is_capital(s))),
    Concept("first of a line", _first_of_line),
    Concept("right after the end of a sentence", lambda s: s.after(_ends_sentence(s))),
    Concept("right after a line end", lambda s: s.after(_ends_line(s))),
    Concept("right after a digit", lambda s: s.after(_is_digit(s))),
    Concept("digit after a digit", lambda s: _is_digit(s) & s.after(_is_digit(s))),
    Concept("digit after a full stop", lambda s: _is_digit(s) & s.after(s.where(lambda t: t.endswith(".")))),
    Concept("piece that goes on with a word",
            lambda s: s.where(lambda t: t[:1].islower()) & s.after(_is_word(s))),
    Concept("inside double quotes", lambda s: _inside(s, '"', '"')),
    Concept("inside round brackets", lambda s: _inside(s, "(", ")")),
    Concept("inside square brackets", lambda s: _inside(s, "[", "]")),
    Concept("inside backticks", lambda s: _inside(s, "`", "`")),
    Concept("inside an address", _inside_address),
    Concept("bracket that closes one", _closes),
    Concept("word that stood before", _repeated),
    Concept("same token again", _again),
    Concept("token that followed the last time", _induced),
    *(_behind(f"‘{words.split()[0]}’", words) for words in (
        "the", "a an", "of", "to", "in", "and", "is are was were", "not", "for", "self", "import", "class", "def")),
    *(_behind(name, sign) for name, sign in {
        "a comma": ",", "a colon": ":", "an opening bracket": "( [ {", "a hyphen": "-", "an underscore": "_",
        "a slash": "/", "a backtick": "` ``", "a quote": "\" '", "an equals sign": "="}.items()),
    *(_language(words) for words in LANGUAGES.values()),
    *map(_pair, PAIRS),
)  # fmt: skip
"""From capitals after full stops to pairs of tokens."""
