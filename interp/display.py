"""Text from a vocabulary or a corpus, safe to look at."""

import unicodedata


def visible(text: str) -> str:
    """A text with control and format characters and outer blanks made visible: safe to print and to read."""
    names = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}

    def show(character: str) -> str:
        if character in names:
            return names[character]
        if unicodedata.category(character) in {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}:
            return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"
        return character

    shown = "".join(show(character) for character in text)
    inner = shown.strip(" ")
    if not inner:
        return "␣" * len(shown)
    lead, trail = len(shown) - len(shown.lstrip(" ")), len(shown) - len(shown.rstrip(" "))
    return "␣" * lead + inner + "␣" * trail
