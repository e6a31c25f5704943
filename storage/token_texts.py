"""The text of every token, for any kind of tokenizer."""

import json
import re
from collections.abc import Sequence
from typing import Any


def token_texts(tokenizer: Any, n_tokens: int) -> list[str]:
    """The text of every token id, with its leading space, and bytes that are not UTF-8 as `<0xE2>`.

    If a vocabulary marks tokens that continue a word rather than those that begin one (WordPiece), or has whole words
    only (word level), words get the space that comes before them in a text.
    """
    byte_of = {character: byte for byte, character in byte_level_alphabet().items()}
    names = tokenizer.convert_ids_to_tokens(list(range(n_tokens)))
    special, added = set(tokenizer.all_special_ids), tokenizer.added_tokens_decoder
    state = json.loads(tokenizer.backend_tokenizer.to_str()) if hasattr(tokenizer, "backend_tokenizer") else {}
    byte_level = "ByteLevel" in json.dumps([state.get("pre_tokenizer"), state.get("decoder")])
    continuing = _continuing(state, names)
    texts = []
    for token_id, name in enumerate(names):
        if name is None:
            texts.append(f"[unused {token_id}]")
        elif token_id in special or (token_id in added and byte_level):
            texts.append(name)  # added tokens are written as they are in a text
        elif byte_level and all(character in byte_of for character in name):
            texts.append(_bytes_as_text(bytes(byte_of[character] for character in name)))
        elif continuing is not None:
            texts.append(_with_space(name, continuing))
        else:
            texts.append(name.replace("▁", " "))
    return texts


def _continuing(state: Any, names: Sequence[str | None]) -> str | None:
    """The mark of tokens that continue a word, if unmarked ones are whole words; empty if there is no such mark."""
    model = state.get("model") or {}
    if any(name is not None and name.startswith(("▁", "Ġ")) for name in names):
        return None
    if model.get("type") == "WordPiece":
        return model.get("continuing_subword_prefix") or "##"
    return "" if model.get("type") == "WordLevel" else None


def _with_space(name: str, continuing: str) -> str:
    if continuing and name.startswith(continuing) and len(name) > len(continuing):
        return name.removeprefix(continuing)
    return f" {name}" if re.match(r"\w", name) else name


def _bytes_as_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in data)


def byte_level_alphabet() -> dict[int, str]:
    """GPT-2's table: printable bytes represent themselves, the others are represented by characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{byte: chr(byte) for byte in printable}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}
