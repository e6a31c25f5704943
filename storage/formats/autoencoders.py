"""Sparse autoencoders, which are known and not read (docs/design.md, "Autoencoders")."""

import re
from pathlib import Path
from typing import NoReturn

WHY = (
    "a sparse autoencoder, which rebuilds one place of the model. Only transcoders are read, which stand for an MLP: "
    "circuits are traced through them (docs/design.md, 'Autoencoders')"
)

GEMMA_SCOPE_REPO = re.compile(r"(google/gemma-scope-[0-9a-z]+-(?:pt|it))-(?:res|mlp|att)(?:-.*)?")

PLACES = ("resid_post*", "mlp_out*", "attn_out*")
"""Folders of Gemma Scope 2 that hold autoencoders."""


def refuse_autoencoder(where: Path | str, how_it_shows: str) -> NoReturn:
    """Say that something is an autoencoder.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{where}: {how_it_shows}: {WHY}")


def refuse_autoencoder_folder(path: Path) -> None:
    """Refuse a folder whose files are those of a library for autoencoders.

    Raises:
        ValueError: it is one of dictionary_learning's or of Gemma Scope 2's autoencoders.
    """
    if (file := next(path.glob("**/ae.pt"), None)) is not None:
        refuse_autoencoder(file, "saved by dictionary_learning, all of whose dictionaries are autoencoders")
    for place in PLACES:
        for pattern in (f"{place}/layer_*/params.safetensors", f"{place}/layer_*/config.json"):
            if (file := next(path.glob(pattern), None)) is not None:
                refuse_autoencoder(file.parents[1], "Gemma Scope 2's folder")


def refuse_autoencoder_repo(repo: str) -> None:
    """Refuse Gemma Scope's repositories of autoencoders, whose files look like those of its transcoders.

    Raises:
        ValueError: it is one of these.
    """
    if (match := GEMMA_SCOPE_REPO.fullmatch(repo)) is not None:
        refuse_autoencoder(f"transcoder.repo: {repo}", f"its files are (those of {match[1]}-transcoders are not)")
