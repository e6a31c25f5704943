"""Text from a vocabulary or a corpus, made safe to display."""

import json
import re
import unicodedata

NAMES = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}

UNSEEN = {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}
"""Unicode categories of characters that are invisible but may control a terminal or reverse the direction of text."""


def escaped(text: str) -> str:
    """A text with control and format characters escaped, such as `\\n` and `\\u202e`: safe to send to a terminal."""
    return "".join(_shown(character) for character in text)


def escaped_json(text: str) -> str:
    """A JSON text with such characters, except line ends, escaped as in JSON strings: its meaning does not change."""
    return "".join(
        json.dumps(character)[1:-1] if unicodedata.category(character) in UNSEEN and character != "\n" else character
        for character in text
    )


def visible(text: str) -> str:
    """A text with control and format characters and outer blanks made visible: safe to print and to read."""
    shown = escaped(text)
    inner = shown.strip(" ")
    if not inner:
        return "␣" * len(shown)
    lead, trail = len(shown) - len(shown.lstrip(" ")), len(shown) - len(shown.rstrip(" "))
    return "␣" * lead + inner + "␣" * trail


def _shown(character: str) -> str:
    if character in NAMES:
        return NAMES[character]
    if unicodedata.category(character) in UNSEEN:
        return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"
    return character


_NAMED = re.compile(r"\\n|\\t|\\r|␣|\\u([0-9a-f]{4})|\\U([0-9a-f]{8})")
_BLANKS = {"\\n": "\n", "\\t": "\t", "\\r": "\r", "␣": " "}


def unescaped(shown: str) -> str:
    """The text whose `visible` form is given."""
    return _NAMED.sub(lambda found: _BLANKS.get(found[0]) or chr(int(found[1] or found[2], 16)), shown)
