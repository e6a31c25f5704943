"""Sparse autoencoders that do not say what they are, and those that are known and not read (docs/design.md)."""

import re
from pathlib import Path
from typing import NoReturn

from interp.capture import Place

GEMMA_SCOPE_REPO = re.compile(r"google/gemma-scope-[0-9a-z]+-(?:pt|it)-(res|mlp|att)(?:-.*)?")

GEMMA_SCOPE_PLACES: dict[str, Place] = {"res": "resid_post", "mlp": "mlp_out_normed"}

UNREAD = (
    "a sparse autoencoder in a format of which transcoders alone are read; autoencoders are read as SAELens, Gemma "
    "Scope and Gemma Scope 2 save them"
)


def place_of_repo(repo: str) -> Place | None:
    """The place that Gemma Scope's autoencoders in a repository of the Hub rebuild, whose files are those of its
    transcoders; None for any other repository.

    Raises:
        ValueError: they rebuild what attention heads mix, which is not read.
    """
    match = GEMMA_SCOPE_REPO.fullmatch(repo)
    if match is None:
        return None
    if match[1] not in GEMMA_SCOPE_PLACES:
        raise ValueError(
            f"transcoder.repo: {repo}: its autoencoders rebuild what attention heads mix before it is written, vectors "
            "of another width than the model's; they are not read"
        )
    return GEMMA_SCOPE_PLACES[match[1]]


def refuse_autoencoder(where: Path | str, how_it_shows: str) -> NoReturn:
    """Say that something is an autoencoder in a format whose autoencoders are not read.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{where}: {how_it_shows}: {UNREAD}")


def refuse_autoencoder_folder(path: Path) -> None:
    """Refuse a folder whose files are those of a library for autoencoders.

    Raises:
        ValueError: it is one of dictionary_learning's.
    """
    if (file := next(path.glob("**/ae.pt"), None)) is not None:
        refuse_autoencoder(file, "saved by dictionary_learning, all of whose dictionaries are autoencoders")
