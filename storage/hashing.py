"""Hashes: of everything that a stage's output depends on (its recipe), and of files. What goes into each stage's recipe
is in `flows/recipes/`."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from storage.store import Store, read_as, write_json

ID_LENGTH = 12
"""Hex digits of an identifier: 48 bits, enough to make collisions among a store's thousands of identifiers
negligible."""


def short_hash(**ingredients: object) -> str:
    """A hash of named ingredients: numbers, texts, dataclasses and lists or dicts of them. A renamed field of a
    dataclass keeps its name in the hash through `hashed_as` (new name to old), which `dataclasses.asdict` ignores."""
    text = json.dumps(ingredients, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names: Mapping[str, str] = getattr(value, "hashed_as", {})
        return {names.get(one.name, one.name): getattr(value, one.name) for one in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} cannot be part of a recipe")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Fingerprint(NamedTuple):
    """A file's hash, with the size and modification time that it had when it was hashed."""

    n_bytes: int
    mtime_ns: int
    sha256: str


def fingerprints(store: Store, files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file, taken from the store if its size and modification time have not changed.

    Files are named from the folder that they have in common, so that a release has the same hashes wherever it is.
    """
    memory, paths = _memory(store), sorted(files)
    above = os.path.commonpath([path.parent for path in paths]) if paths else ""
    result = {}
    for path in paths:
        known = memory.get(str(path.resolve()))
        name = path.relative_to(above).as_posix()
        result[name] = known.sha256 if known and known[:2] == _stamp(path) else file_sha256(path)
    return result


def remember_fingerprints(store: Store, files: Iterable[Path]) -> None:
    """Record the files' hashes in the store, so that the next run need not read the files again."""
    memory = _memory(store)
    for path in files:
        memory[str(path.resolve())] = Fingerprint(*_stamp(path), fingerprints(store, [path])[path.name])
    write_json(store.root / "fingerprints.json", memory)


def _memory(store: Store) -> dict[str, Fingerprint]:
    try:
        return read_as(store.root / "fingerprints.json", dict[str, Fingerprint])
    except (OSError, ValueError):
        return {}  # if it is lost, the files are only read again


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
