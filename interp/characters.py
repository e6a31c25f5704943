"""Characters that a byte-level tokenizer splits over several tokens."""

import re
from collections.abc import Sequence

_BYTES = re.compile(r"(?:<0x[0-9A-F]{2}>)+")

MOST_TOKENS = 8
"""Largest number of tokens that are joined: four for one character, more where a token ends one and begins the next."""


def is_bytes(text: str) -> bool:
    """Whether a token's text is bytes that are no character by themselves, such as `<0xE2>`."""
    return _BYTES.fullmatch(text) is not None


def joined_characters(texts: Sequence[str]) -> list[str]:
    """The texts of consecutive tokens, with each split character whole on the first of its tokens and '' on the others.

    Their number does not change, and concatenated they are the text that was tokenised. Bytes that are no character
    even together, such as those at the edge of a row that begins within one, stay `<0xE2>`.
    """
    joined = list(texts)
    at = 0
    while at < len(texts):
        n, text = _character_at(texts, at)
        joined[at : at + n] = [text, *[""] * (n - 1)]
        at += n
    return joined


def _character_at(texts: Sequence[str], at: int) -> tuple[int, str]:
    """(tokens, text) of the fewest tokens from `at` on that are text together."""
    data = b""
    for n, text in enumerate(texts[at : at + MOST_TOKENS], start=1):
        if not is_bytes(text):
            break
        data += bytes.fromhex(text.replace("<0x", "").replace(">", ""))
        try:
            return n, data.decode()
        except UnicodeDecodeError:
            continue
    return 1, texts[at]
