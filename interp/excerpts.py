"""A token with as much of its text as fits: its sentence if that is short, else the nearest text."""

import re
from typing import NamedTuple

# A full stop or similar sign, closing marks, then a blank; or the end of a paragraph.
_END = re.compile("[.!?\u2026][\"'\u201d\u2019)\\]]*\\s|[\u3002\uff01\uff1f][\u201d\u300d\u300f\uff09]*|\\s*\\n\\s*\\n")

CUT = "…"


class Excerpt(NamedTuple):
    """A token's text with the text before and after it."""

    before: str
    token: str
    after: str


def sentence(excerpt: Excerpt) -> Excerpt:
    """The excerpt cut to the token's sentence, as far as the text contains its beginning and end."""
    before, token, after = excerpt
    ends = [found.end() for found in _END.finditer(before)]
    start = ends[-1] if ends else 0
    # The token may be the end of a sentence, or the first of its characters may be: " world." or ".".
    rest = token + after
    end = next((found.end() for found in _END.finditer(rest) if found.end() >= len(token)), len(rest))
    return Excerpt(before[start:].lstrip(), token, rest[len(token) : end].rstrip())


def fitted(excerpt: Excerpt, width: int) -> Excerpt:
    """The token's sentence if it fits into this number of characters, else as much text around the token, with cut ends
    marked by `…`.

    A third of the room is for the text after the token; room that one side does not need goes to the other.
    """
    before, token, after = sentence(excerpt)
    if len(before) + len(token) + len(after) <= width:
        return Excerpt(before, token, after)
    if len(token) > width // 2:
        token = token[: max(1, width // 2 - 1)] + CUT
    room = max(0, width - len(token))
    n_after = min(len(after), max(room // 3, room - len(before)))
    return Excerpt(_tail(before, room - n_after), token, _head(after, n_after))


def _head(text: str, n: int) -> str:
    return text if len(text) <= n else text[: max(0, n - 1)] + CUT


def _tail(text: str, n: int) -> str:
    return text if len(text) <= n else CUT + text[len(text) - max(0, n - 1) :]
