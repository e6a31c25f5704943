"""What a store holds that nothing in its catalog rests on."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import duckdb

from storage.bucket.working_copy import forget
from storage.catalog.database import open_catalog
from storage.layout import PARTIAL, UNFINISHED
from storage.store import Store, remove_folder


class Unneeded(NamedTuple):
    """A folder that can go."""

    path: Path
    why: str
    n_bytes: int


def unneeded(store: Store, *, answers: bool = False, there: Mapping[str, int] | None = None) -> list[Unneeded]:
    """Folders that no checkpoint, corpus or result of the catalog rests on, the work of killed runs included.

    What is removed costs time if it is ever wanted again, never a result. Folders that the store does not know are
    left alone. `answers`: those of language models too, which would be paid for again. `there`: sizes of files that
    the store's bucket holds, here or not.

    Raises:
        ValueError: there is no catalog to tell.
    """
    files = _Files(store.root, there or {})
    with open_catalog(store.catalog) as connection:
        found = list(_unneeded(store.root, files, _Kept.of(connection)))
    if answers and store.root / "answers" in files.folders(store.root):
        found.append((store.root / "answers", "what language models answered; whoever wants it again pays again"))
    return [Unneeded(path, why, files.size(path)) for path, why in found]


class _Files:
    """A store's files, here and in its bucket."""

    def __init__(self, root: Path, there: Mapping[str, int]) -> None:
        self._there = {root / path: n_bytes for path, n_bytes in there.items()}
        self._folders = {folder for path in self._there for folder in path.parents}

    def folders(self, path: Path) -> list[Path]:
        """The folders in a folder."""
        here = {folder for folder in path.iterdir() if folder.is_dir()} if path.is_dir() else set()
        every = here | {folder for folder in self._folders if folder.parent == path}
        return sorted(folder for folder in every if not folder.name.endswith(PARTIAL))

    def has(self, path: Path) -> bool:
        return path.is_file() or path in self._there

    def size(self, path: Path) -> int:
        sizes = {file: n_bytes for file, n_bytes in self._there.items() if path in file.parents}
        sizes |= {file: file.stat().st_size for file in path.rglob("*") if file.is_file()}
        return sum(sizes.values())


class _Kept(NamedTuple):
    """Names of the folders that the catalog rests on."""

    checkpoints: set[str]
    corpora: set[str]
    transcoders: set[str]
    recipes: set[str]
    unrecorded: set[str]
    """Checkpoints loaded by a version that did not record from which parts."""
    known: set[str]
    """Folders of arrays of which the catalog has all that are needed."""

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection) -> "_Kept":
        def column(query: str) -> set[str]:
            return {row[0] for row in connection.execute(query).fetchall()}

        checkpoints = column("SELECT checkpoint_id FROM checkpoints")
        recorded, recipes = set(), column("SELECT recipe FROM loaded")
        if column("SELECT 1 FROM duckdb_tables() WHERE table_name = 'loaded_parts'"):
            recipes |= column("SELECT recipe FROM loaded_parts")
            recorded = {
                json.loads(selected).get("checkpoint_id") for selected in column("SELECT selected FROM loaded_parts")
            }
        transcoders = {Path(name).name for name in column("SELECT transcoder_name FROM checkpoints") if name}
        corpora = column("SELECT corpus_id FROM corpora")
        stages = column("SELECT stage FROM loaded")
        noted = column("SELECT table_name FROM loaded_parts") if recorded else set()
        known = {kind for kind in ("activations", "coactivation") if kind in noted or kind not in stages}
        return cls(checkpoints, corpora, transcoders, recipes | checkpoints, checkpoints - recorded, known)


def _unneeded(root: Path, files: _Files, kept: _Kept) -> Iterator[tuple[Path, str]]:
    for path in files.folders(root / "checkpoints"):
        if path.name not in kept.checkpoints:
            yield path, "a checkpoint that is not in the catalog"
    for path in files.folders(root / "corpora"):
        if path.name.endswith(UNFINISHED):
            yield path, "a corpus whose tokenisation was interrupted"
        elif path.name not in kept.corpora:
            yield path, "a corpus that is not in the catalog"
    for path in files.folders(root / "transcoders"):
        if not files.has(path / "config.yaml"):
            yield path, "transcoders whose training was interrupted"
        elif path.name not in kept.transcoders:
            yield path, "transcoders of no checkpoint in the catalog"
    for kind in sorted(kept.known):
        for path in files.folders(root / kind):
            if path.name not in kept.recipes:
                yield path, "arrays of other settings than those in the catalog, or of a run that did not finish"
    parts = [path for table in files.folders(root / "parts") for path in files.folders(table)]
    for path in parts:
        if path.name not in kept.recipes and not kept.unrecorded:
            yield path, "of other settings than those in the catalog, or of a run that did not finish"


def remove(folders: list[Unneeded]) -> None:
    """Remove folders, here and in the bucket. Only the store's holder may."""
    for folder in folders:
        remove_folder(folder.path)
        forget(folder.path)
        parent = folder.path.parent
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()
