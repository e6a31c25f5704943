"""What another checkpoint of the store had computed from exactly the same: copied, not computed again.

Paths name a recipe, and a recipe names the checkpoint. What a shard's rows follow from is often less: the arrays of its
own layer and of those below it. A hash of exactly these *ingredients* is noted with the recipe under which they are
used, in `equals/<ingredients>.json`; whoever has the same ingredients finds there where equal files lie. Notes are
written before anything is computed: a file that is there is whole, whoever was killed after it.

Copied parts still have the other checkpoint's id in them. Loading replaces it, and nobody else reads it.
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
    """Copy what was computed from the same ingredients; whether there was such.

    `name` is the recipe or checkpoint that it is wanted for, and `paths` says where files or folders lie under a name.
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

    `ingredients` are given by layer, as hashes.
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
