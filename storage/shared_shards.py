"""Reuse of results that another checkpoint of the store computed from identical inputs: they are copied.

Paths contain a recipe, and a recipe contains the checkpoint. But the rows of a shard often depend on less: the arrays
of its own layer and of lower ones. A hash of exactly these inputs (*ingredients*) is recorded with the recipe that uses
them, in `equals/<ingredients>.json`; a stage with the same ingredients finds there where equal files are. Records are
written before anything is computed, and files are written completely or not at all, so kills do no harm.

Copied parts contain the other checkpoint's id. Loading replaces it; nothing else reads it.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.checksums import read_document
from storage.damage import check_whole
from storage.store import ShardKey, Store, checked_as, whole_file, whole_folder, write_json


@dataclass
class ReuseCount:
    """How many shards a stage has, and how many of them were copied from another checkpoint."""

    n_shards: int = 0
    n_reused: int = 0


def take_over(store: Store, ingredients: str, name: str, paths: Callable[[str], Sequence[Path]]) -> bool:
    """Copy results computed from the same ingredients; returns whether there were any.

    `name` is the recipe or checkpoint that needs them, and `paths` gives the files or folders for a name.
    """
    known = _noted(store, ingredients)
    for other in known:
        if other != name and all(path.exists() for path in paths(other)):
            for source, target in zip(paths(other), paths(name), strict=True):
                _copy(source, target)
            return True
    if name not in known:
        write_json(store.equals(ingredients), {"recipes": [*known, name]})
    return False


def take_over_shards(
    store: Store, keys: Sequence[ShardKey], tables: Sequence[str], ingredients: Sequence[str], tally: ReuseCount
) -> list[ShardKey]:
    """Copy the parts of shards that are equal to others; returns the shards that are still to be computed.

    `ingredients` are hashes, by layer.
    """
    left = []
    for key in keys:
        paths = _parts_of(store, key, tables)
        tally.n_shards += 1
        if all(path.exists() for path in paths(key.recipe)):
            continue
        if take_over(store, ingredients[key.layer], key.recipe, paths):
            tally.n_reused += 1
        else:
            left.append(key)
    return left


def _parts_of(store: Store, key: ShardKey, tables: Sequence[str]) -> Callable[[str], list[Path]]:
    return lambda recipe: [store.part(table, key._replace(recipe=recipe)) for table in tables]


def _noted(store: Store, ingredients: str) -> list[str]:
    path = store.equals(ingredients)
    return recipes_noted(path) if path.exists() else []


def recipes_noted(path: Path) -> list[str]:
    """The recipes or checkpoints that an index file names.

    Raises:
        DamagedError: it is damaged.
    """
    found = read_document(path)
    names = found if isinstance(found, list) else found["recipes"]  # a list in stores of earlier versions
    return checked_as(list[str], names, path)


def _copy(source: Path, target: Path) -> None:
    if target.exists():
        return
    check_whole(source)
    if source.is_dir():
        with whole_folder(target) as partial:
            shutil.copytree(source, partial, dirs_exist_ok=True)
    else:
        with whole_file(target) as partial:
            shutil.copyfile(source, partial)
