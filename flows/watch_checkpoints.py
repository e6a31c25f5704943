"""Look for new checkpoints of a series in a folder, describe each once it is complete, and compare it with the last."""

import re
import time
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Ge
from prefect import flow, get_run_logger
from prefect.events import emit_event

from configs.run import RunConfig
from flows.compare_checkpoints import compare_checkpoints
from flows.describe_checkpoint import describe_checkpoint
from flows.subject import store_path
from interp.drift import DriftSettings
from storage.catalog import insert_row, open_catalog
from storage.formats.folder import tensor_shapes
from storage.models import open_model
from storage.published import publish
from storage.runs import now

EVENT = "checkpoint.created"

Series = Literal["model", "transcoder"]

UNFINISHED = re.compile(r".*\.(partial|tmp|incomplete|part|lock)$")
"""Files of a folder that is still being written."""


class Found(NamedTuple):
    """A folder of a series."""

    step: int
    path: Path

    @property
    def name(self) -> str:
        return self.path.name


def found_checkpoints(folder: Path, pattern: str) -> list[Found]:
    """Folders that fit the pattern and have a number in their name, by that number.

    Raises:
        ValueError: there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"watch-checkpoints: no folder {folder}")
    numbers = [(re.findall(r"\d+", path.name), path) for path in folder.glob(pattern) if path.is_dir()]
    return sorted(Found(int(found[-1]), path) for found, path in numbers if found)


def is_complete(path: Path, series: Series, settle_s: float) -> bool:
    """Whether a folder is written wholly: nothing half-written in it, every safetensors file as long as its header
    says, every file that an index names there, and nothing changed for `settle_s`."""
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


def seen(catalog: Path, folder: Path) -> dict[str, str]:
    """The checkpoints of a folder that were described, by the names of their folders, in the order of their steps."""
    if not catalog.is_file():
        return {}
    query = "SELECT name, checkpoint_id FROM watched WHERE place = ? ORDER BY step"
    with open_catalog(catalog, write=True) as connection:
        return dict(connection.execute(query, [str(folder.resolve())]).fetchall())


def of_checkpoint(config: RunConfig, found: Found, series: Series) -> RunConfig:
    """The configuration for one checkpoint of a series."""
    sections: dict[str, Any] = {
        "model": config.model.model_copy(update={"step": found.step}),
        "name": f"{config.name}-{found.name}",
    }
    if series == "model":
        sections["model"] = sections["model"].model_copy(update={"path": found.path, "repo": None})
    else:
        sections["transcoder"] = config.transcoder.model_copy(update={"path": found.path, "repo": None})
    return config.model_copy(update=sections)


@flow(name="watch-checkpoints", flow_run_name="watch {folder}")
def watch_checkpoints(
    config: RunConfig,
    folder: Path,
    pattern: str = "step-*",
    series: Series = "model",
    settle_s: Annotated[float, Ge(0)] = 10.0,
) -> list[str]:
    """Describe every new, complete checkpoint of a folder, in order; returns their ids. One look: schedule it.

    Each new one is announced by the event `checkpoint.created`. What was described is remembered in the catalog, so
    that none is described twice; a checkpoint that fails is tried again by the next look.
    """
    catalog = store_path(config) / "catalog.duckdb"
    known, described, failed = seen(catalog, folder), [], []
    for found in found_checkpoints(folder, pattern):
        if found.name in known:
            continue
        if not is_complete(found.path, series, settle_s):
            get_run_logger().info("%s is still being written", found.path)
            continue
        resource = {"prefect.resource.id": f"circuit-insights.checkpoint.{config.name}.{found.name}"}
        emit_event(EVENT, resource, payload={"path": str(found.path), "step": found.step})
        try:
            checkpoint_id = describe_checkpoint(of_checkpoint(config, found, series))
            row = {"place": str(folder.resolve()), "name": found.name, "step": found.step}
            with open_catalog(catalog, write=True) as connection:
                insert_row(connection, "watched", {**row, "checkpoint_id": checkpoint_id, "seen_at": now()})
            publish(catalog)
            described.append(checkpoint_id)
            earlier = list(seen(catalog, folder).values())
            place = earlier.index(checkpoint_id)
            if place > 0 and earlier[place - 1] != checkpoint_id:
                weights_alone = DriftSettings(n_positions=0)
                compare_checkpoints(store_path(config), earlier[place - 1], checkpoint_id, weights_alone)
        except ValueError as error:
            failed.append(f"{found.path}: {error}")
    if failed:
        raise ValueError("\n".join(failed))
    return described
