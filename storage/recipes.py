"""Recipes: short hashes of everything that a stage's output depends on."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from storage.store import Store, read_json, write_json

ID_LENGTH = 12
"""Hex digits of an identifier: 48 bits, collisions out of reach for the thousands that a store holds."""


def short_hash(**ingredients: Any) -> str:
    """A hash of named ingredients: numbers, texts, dataclasses and lists or dicts of them."""
    text = json.dumps(ingredients, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} cannot be part of a recipe")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_fingerprint(store: Store, files: list[Path]) -> dict[str, str]:
    """SHA-256 of each file by name, remembered in the store while size and modification time stay."""
    memory_path = store.root / "fingerprints.json"
    memory: dict[str, list[Any]] = read_json(memory_path) if memory_path.exists() else {}
    result = {}
    for path in sorted(files):
        stat = path.stat()
        seen = [stat.st_size, stat.st_mtime_ns]
        known = memory.get(str(path.resolve()))
        if known is None or known[:2] != seen:
            known = [*seen, file_sha256(path)]
            memory[str(path.resolve())] = known
            write_json(memory_path, memory)
        result[path.name] = known[2]
    return result
