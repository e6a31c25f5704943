"""A token in as much of its text as fits: the sentence where it is short, else what is nearest."""

import re
from typing import NamedTuple

# A full stop and its like, closing marks, then a blank; or a paragraph's end.
_END = re.compile("[.!?\u2026][\"'\u201d\u2019)\\]]*\\s|[\u3002\uff01\uff1f][\u201d\u300d\u300f\uff09]*|\\s*\\n\\s*\\n")

CUT = "…"


class Excerpt(NamedTuple):
    """Texts that follow one another."""

    before: str
    token: str
    after: str


def sentence(excerpt: Excerpt) -> Excerpt:
    """The excerpt cut to the token's sentence, as far as its beginning and end are in the text."""
    before, token, after = excerpt
    ends = [found.end() for found in _END.finditer(before)]
    start = ends[-1] if ends else 0
    # The token may be the end, or the first of its characters: " world." or ".".
    rest = token + after
    end = next((found.end() for found in _END.finditer(rest) if found.end() >= len(token)), len(rest))
    return Excerpt(before[start:].lstrip(), token, rest[len(token) : end].rstrip())


def fitted(excerpt: Excerpt, width: int) -> Excerpt:
    """The token's sentence if it has at most so many characters, else as much around the token, cut ends as `…`.

    A third of the room is for what comes after; what one side does not need the other has.
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
