"""The instructions of every kind of question to a language model: versioned files, or a user's own."""

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
"""Values of the placeholders `{fence_note}` and `{n_texts}`."""

ALLOWED: dict[Purpose, frozenset[str]] = {
    purpose: frozenset({"fence_note", "n_texts"} if purpose == "synthesise" else {"fence_note"})
    for purpose in get_args(Purpose)
}

REQUIRED = "fence_note"
"""The text that says that the texts of a corpus are data; it is part of all instructions."""

_VERSION = re.compile(r"version: ([0-9]+)\n\n")

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")


class PromptFile(NamedTuple):
    """The instructions of one kind of question, from a file."""

    version: str
    """The number at its head, or `own` for a user's file."""
    text: str
    """Its text, with placeholders."""

    @property
    def filled(self) -> str:
        """The text with what the program fills in, such as the scale of ratings."""
        return _PLACEHOLDER.sub(lambda found: FILLED_IN[found[1]], self.text)

    @property
    def identity(self) -> tuple[str, str]:
        """Its part of a recipe: the version and a hash of the content."""
        return self.version, hashlib.sha256(self.text.encode()).hexdigest()[:12]


def prompt_file(purpose: Purpose, own: Path | None = None) -> PromptFile:
    """The instructions of a kind of question: the built-in ones, or a user's own file.

    Raises:
        ValueError: the file does not exist or is not UTF-8, or a placeholder is missing or unknown.
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
        raise ValueError(f"prompts.{purpose}: {path} has the placeholder {{{name}}}; expected only {expected}")
    if REQUIRED not in found:
        raise ValueError(
            f"prompts.{purpose}: {path} lacks {{{REQUIRED}}}, which becomes the statement that quoted text is data, "
            "not instructions; put it where that statement should be"
        )
    return PromptFile("own" if own is not None else head[1] if head else "0", text)


def instructions(own: Mapping[Purpose, Path | None] | None = None) -> Instructions:
    """The instructions of every kind of question, placeholders filled in.

    Raises:
        ValueError: see `prompt_file`.
    """
    return {purpose: prompt_file(purpose, (own or {}).get(purpose)).filled for purpose in get_args(Purpose)}
