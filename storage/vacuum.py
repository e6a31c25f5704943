"""What a store holds that nothing in its catalog rests on."""

import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb

from storage.catalog import open_catalog
from storage.corpora import UNFINISHED
from storage.store import PARTIAL, Store


class Unneeded(NamedTuple):
    """A folder that can go."""

    path: Path
    why: str
    n_bytes: int


def unneeded(store: Store, *, answers: bool = False) -> list[Unneeded]:
    """Folders that no checkpoint, corpus or result of the catalog rests on, the work of killed runs included.

    What is removed costs time if it is ever wanted again, never a result. Folders that the store does not know are
    left alone. `answers`: those of language models too, which would be paid for again.

    Raises:
        ValueError: there is no catalog to tell.
    """
    with open_catalog(store.catalog) as connection:
        found = list(_unneeded(store, _Kept.of(connection)))
    if answers and store.root.joinpath("answers").is_dir():
        found.append((store.root / "answers", "what language models answered; whoever wants it again pays again"))
    return [Unneeded(path, why, _size(path)) for path, why in found]


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


def _unneeded(store: Store, kept: _Kept) -> Iterator[tuple[Path, str]]:
    for path in _folders(store.root / "checkpoints"):
        if path.name not in kept.checkpoints:
            yield path, "a checkpoint that is not in the catalog"
    for path in _folders(store.root / "corpora"):
        if path.name.endswith(UNFINISHED):
            yield path, "a corpus whose tokenisation was interrupted"
        elif path.name not in kept.corpora:
            yield path, "a corpus that is not in the catalog"
    for path in _folders(store.root / "transcoders"):
        if not (path / "config.yaml").is_file():
            yield path, "transcoders whose training was interrupted"
        elif path.name not in kept.transcoders:
            yield path, "transcoders of no checkpoint in the catalog"
    for kind in sorted(kept.known):
        for path in _folders(store.root / kind):
            if path.name not in kept.recipes:
                yield path, "arrays of other settings than those in the catalog, or of a run that did not finish"
    parts = [path for table in _folders(store.root / "parts") for path in _folders(table)]
    for path in parts:
        if path.name not in kept.recipes and not kept.unrecorded:
            yield path, "of other settings than those in the catalog, or of a run that did not finish"


def _folders(path: Path) -> list[Path]:
    found = sorted(path.iterdir()) if path.is_dir() else []
    return [folder for folder in found if folder.is_dir() and not folder.name.endswith(PARTIAL)]


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def remove(folders: list[Unneeded]) -> None:
    """Remove folders; one that a kill leaves half removed is swept by the next run. Only the store's holder may."""
    for folder in folders:
        going = folder.path.with_name(f"{folder.path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
        folder.path.replace(going)
        shutil.rmtree(going)
        if not any(folder.path.parent.iterdir()):
            folder.path.parent.rmdir()
