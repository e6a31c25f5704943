"""Checkpoints of a series: folders in a folder, or branches and tags of a Hub repository, with their steps."""

import re
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, NamedTuple

from configs.run import RunConfig
from flows.inputs.checkpoint_plan import store_path
from storage.bucket.working_copy import refresh
from storage.catalog.database import open_catalog
from storage.formats.folder import tensor_shapes
from storage.hub import references
from storage.models import open_model
from storage.store import Store

HUB = "hf://"

Series = Literal["model", "transcoder"]

UNFINISHED = re.compile(r".*\.(partial|tmp|incomplete|part|lock)$")
"""Names of files that are still being written."""


class Found(NamedTuple):
    """One checkpoint of a series."""

    step: int
    name: str
    """Name of the folder; on the Hub the reference and its commit, since a branch may change."""
    path: Path | None
    commit: str | None


class Arrived(NamedTuple):
    """A complete checkpoint that has not been described."""

    config: RunConfig
    """The configuration with which it is to be described."""
    place: str
    name: str
    step: int


def arrived(
    config: RunConfig, place: str, pattern: str, series: Series, settle_s: float
) -> Iterator[tuple[Found, Arrived | None]]:
    """The checkpoints at a place that have not been described, by step; None for those that are still being written.

    Raises:
        ValueError: there is no such place.
    """
    store = Store(store_path(config))
    refresh(store)
    known = seen(store.catalog, full_name(place))
    for found in found_checkpoints(place, pattern):
        if found.name not in known:
            is_whole = found.path is None or is_complete(found.path, series, settle_s)
            one = Arrived(of_checkpoint(config, place, found, series), full_name(place), found.name, found.step)
            yield found, one if is_whole else None


def full_name(place: str) -> str:
    """A place in the form of the catalog."""
    return place if place.startswith(HUB) else str(Path(place).resolve())


def found_checkpoints(place: str, pattern: str) -> list[Found]:
    """Folders, branches and tags that match the pattern and have a number in their name, ordered by the last such
    number.

    Raises:
        ValueError: there is no such folder or repository.
    """
    if place.startswith(HUB):
        commits = references(place.removeprefix(HUB))
        every = [(name, Found(0, f"{name} {commit[:12]}", None, commit)) for name, commit in commits.items()]
    elif Path(place).is_dir():
        every = [(path.name, Found(0, path.name, path, None)) for path in Path(place).iterdir() if path.is_dir()]
    else:
        raise ValueError(f"watch-checkpoints: no folder {place}")
    numbers = [(re.findall(r"\d+", name), found) for name, found in every if fnmatchcase(name, pattern)]
    return sorted(found._replace(step=int(digits[-1])) for digits, found in numbers if digits)


def is_complete(path: Path, series: Series, settle_s: float) -> bool:
    """Whether a folder is complete: no partial file, every safetensors file as long as its header says, every file of
    an index present, and no change for `settle_s` seconds."""
    files = [file for file in path.rglob("*") if file.is_file()]
    if not files or any(UNFINISHED.fullmatch(file.name) for file in files):
        return False
    if time.time() - max(file.stat().st_mtime for file in files) < settle_s:
        return False
    try:
        weights = [file for file in files if file.suffix == ".safetensors"]
        for file in weights:
            tensor_shapes(file)
        if series == "model":
            open_model(path)
    except (ValueError, OSError):
        return False
    return bool(weights) or series == "transcoder"


def seen(catalog: Path, place: str) -> dict[str, tuple[int, str]]:
    """Step and checkpoint of the described ones of a series, by name, in order."""
    if not catalog.is_file():
        return {}
    query = "SELECT name, step, checkpoint_id FROM watched WHERE place = ? ORDER BY step, name"
    with open_catalog(catalog, write=True) as connection:
        return {name: (step, checkpoint) for name, step, checkpoint in connection.execute(query, [place]).fetchall()}


def of_checkpoint(config: RunConfig, place: str, found: Found, series: Series) -> RunConfig:
    """The configuration for one checkpoint of a series."""
    if found.path is not None:
        origin: dict[str, object] = {"path": found.path.resolve(), "repo": None, "revision": "main"}
    else:
        origin = {"path": None, "repo": place.removeprefix(HUB), "revision": found.commit}
    sections: dict[str, dict[str, object]] = {"model": {"step": found.step}, "transcoder": {}}
    sections[series] |= origin
    changed = {name: getattr(config, name).model_copy(update=changes) for name, changes in sections.items()}
    return config.model_copy(update={**changed, "name": f"{config.name}-{found.name.split()[0]}"})
