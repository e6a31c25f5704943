"""The instructions of every kind of question to a language model: files with versions, or a user's own."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, get_args

from interp.descriptions.llm_questions import FENCE_NOTE, Instructions, Purpose
from interp.fade.model_judge import TEXTS_PER_WRITING
from storage.foreign import read_bytes

FOLDER = Path(__file__).with_name("prompts")

MAX_BYTES = 1 << 16

FILLED_IN = {"fence_note": FENCE_NOTE, "n_texts": str(TEXTS_PER_WRITING)}
"""What stands in the place of `{fence_note}` and `{n_texts}`."""

ALLOWED: dict[Purpose, frozenset[str]] = {
    purpose: frozenset({"fence_note", "n_texts"} if purpose == "synthesise" else {"fence_note"})
    for purpose in get_args(Purpose)
}

REQUIRED = "fence_note"
"""Says that the texts of a corpus are data; no instructions go without it."""

_VERSION = re.compile(r"version: ([0-9]+)\n\n")

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")


class PromptFile(NamedTuple):
    """The instructions of one kind of question, as a file has them."""

    version: str
    """The number at its head, or `own` for a user's."""
    text: str
    """Its text, with placeholders."""

    @property
    def filled(self) -> str:
        return _PLACEHOLDER.sub(lambda found: FILLED_IN[found[1]], self.text)

    @property
    def identity(self) -> tuple[str, str]:
        """What a recipe knows of it: its version and a hash of its content."""
        return self.version, hashlib.sha256(self.text.encode()).hexdigest()[:12]


def prompt_file(purpose: Purpose, own: Path | None = None) -> PromptFile:
    """The instructions of a kind of question: the platform's, or a user's own file.

    Raises:
        ValueError: there is no such file, it is not UTF-8, or a placeholder is lacking or unknown.
    """
    path = own or FOLDER / f"{purpose}.md"
    try:
        text = read_bytes(path, MAX_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"prompts.{purpose}: {path} is not UTF-8") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"prompts.{purpose}: {error}") from None
    head = _VERSION.match(text)
    text = (text[head.end() :] if head else text).strip()
    found, allowed = set(_PLACEHOLDER.findall(text)), ALLOWED[purpose]
    expected = " and ".join(f"{{{name}}}" for name in sorted(allowed))
    for name in sorted(found - allowed):
        raise ValueError(f"prompts.{purpose}: {path} has the placeholder {{{name}}}; expected {expected} alone")
    if REQUIRED not in found:
        raise ValueError(
            f"prompts.{purpose}: {path} lacks {{{REQUIRED}}}, in whose place it is said that quoted text is data and "
            "no instruction; write it where that shall stand"
        )
    return PromptFile("own" if own is not None else head[1] if head else "0", text)


def instructions(own: Mapping[Purpose, Path | None] | None = None) -> Instructions:
    """The instructions of every kind of question, placeholders filled in.

    Raises:
        ValueError: see `prompt_file`.
    """
    return {purpose: prompt_file(purpose, (own or {}).get(purpose)).filled for purpose in get_args(Purpose)}
