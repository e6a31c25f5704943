"""Find and remove files of a store that nothing in its catalog needs."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import duckdb

from storage.bucket.working_copy import forget
from storage.catalog.database import open_catalog
from storage.catalog.published import abandoned_copies
from storage.checksums import DamagedError
from storage.layout import FOLDERS, KINDS, PARTIAL, UNFINISHED, Owner
from storage.shared_shards import recipes_noted
from storage.store import Store, remove_folder


class Unneeded(NamedTuple):
    """A folder or file that can be removed."""

    path: Path
    why: str
    n_bytes: int


def unneeded(store: Store, *, answers: bool = False, there: Mapping[str, int] | None = None) -> list[Unneeded]:
    """Files that no checkpoint, corpus or result of the catalog needs, including those of killed runs.

    Removing them costs time if they are needed again, but no result. `storage.layout` defines how it is known whether a
    folder is needed; anything else is left alone. `answers`: also list answers of language models, which would have to
    be paid for again. `there`: sizes of the files in the store's bucket.

    Raises:
        ValueError: there is no catalog.
    """
    files = _Files(store.root, there or {})
    with open_catalog(store.catalog) as connection:
        found = list(_unneeded(store.root, files, _Kept.of(connection)))
    for folder in files.folders(store.root):
        if answers and folder.name in FOLDERS and owner(folder.name) is Owner.ANSWERS:
            found.append((folder, "answers of language models, which would have to be paid for again"))
    found += [
        (path, "an unfinished copy of the catalog, from a killed run") for path in abandoned_copies(store.catalog)
    ]
    found += [(path, "a damaged catalog that was set aside") for path in store.root.glob("catalog.damaged-*")]
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

    def files(self, path: Path) -> list[Path]:
        """The finished files in a folder that are here."""
        return sorted(file for file in path.glob("*") if file.is_file() and PARTIAL not in file.name)

    def has(self, path: Path) -> bool:
        return path.is_file() or path in self._there

    def size(self, path: Path) -> int:
        sizes = {file: n_bytes for file, n_bytes in self._there.items() if path in file.parents}
        here = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        sizes |= {file: file.stat().st_size for file in here}
        return sum(sizes.values())


class _Kept(NamedTuple):
    """Names of the folders that the catalog needs."""

    checkpoints: set[str]
    corpora: set[str]
    transcoders: set[str]
    recipes: set[str]
    known: set[str]
    """Kinds of outputs for which the catalog records every needed recipe; earlier versions did not record some."""

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
        began = {stage.split()[0] for stage in stages}
        stage_of = {"activations": "activations", "coactivation": "coactivation", "evaluation": "evaluate"}
        known = {folder for folder, stage in stage_of.items() if folder in noted or stage not in began} | {"reports"}
        known |= {"parts"} if not checkpoints - recorded else set()
        return cls(checkpoints, corpora, transcoders, recipes | checkpoints, known)


def owner(folder: str) -> Owner:
    """How it is known whether something in one of the store's folders is needed."""
    (found,) = {kind.owner for kind in KINDS if kind.folder == folder}
    return found


def _unneeded(root: Path, files: _Files, kept: _Kept) -> Iterator[tuple[Path, str]]:
    for folder in FOLDERS:
        match owner(folder):
            case Owner.CHECKPOINT:
                yield from _of_names(files.folders(root / folder), kept.checkpoints, "a checkpoint")
            case Owner.CORPUS:
                found = files.folders(root / folder)
                unfinished = [path for path in found if path.name.endswith(UNFINISHED)]
                yield from ((path, "a corpus whose tokenisation was interrupted") for path in unfinished)
                yield from _of_names([path for path in found if path not in unfinished], kept.corpora, "a corpus")
            case Owner.TRANSCODERS:
                yield from _transcoders(root / folder, files, kept)
            case Owner.RECIPE if folder in kept.known:
                yield from _of_recipes(root / folder, files, kept)
            case Owner.INDEX if "parts" in kept.known:
                for path in files.files(root / folder):
                    if not kept.recipes.intersection(_noted(path, kept)):
                        yield path, "an index of outputs that are not in the catalog"
            case _:
                pass


def _of_names(paths: list[Path], kept: set[str], what: str) -> Iterator[tuple[Path, str]]:
    yield from ((path, f"{what} that is not in the catalog") for path in paths if path.name not in kept)


def _transcoders(folder: Path, files: _Files, kept: _Kept) -> Iterator[tuple[Path, str]]:
    for path in files.folders(folder):
        if not files.has(path / "config.yaml"):
            yield path, "transcoders whose training was interrupted"
        elif path.name not in kept.transcoders:
            yield path, "transcoders of no checkpoint in the catalog"


def _of_recipes(folder: Path, files: _Files, kept: _Kept) -> Iterator[tuple[Path, str]]:
    paths = files.folders(folder)
    if folder.name == "parts":
        paths = [path for table in paths for path in files.folders(table)]
    for path in paths:
        compared = path.name.startswith("drift-") and kept.checkpoints.issuperset(path.name.split("-")[1:])
        if path.name not in kept.recipes and not compared:
            yield path, "from settings other than those in the catalog, or from a run that did not finish"


def _noted(path: Path, kept: _Kept) -> set[str]:
    try:
        return set(recipes_noted(path))
    except DamagedError:
        return kept.recipes  # reported by doctor


def remove(found: list[Unneeded]) -> None:
    """Remove folders and files, here and in the bucket. The caller must hold the store's lock."""
    for item in found:
        if item.path.is_file():
            item.path.unlink()
        else:
            remove_folder(item.path)
            forget(item.path)
        parent = item.path.parent
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()
