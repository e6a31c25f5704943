"""Progress of the run that has locked the store, from the files that it has written."""

import re
import time
from pathlib import Path
from typing import TypedDict

from storage.store import Store, is_held

SHARD = re.compile(r"features-(\d+)-(\d+)\.parquet")
FRESH_S = 900.0
"""A table whose newest file is older than this (in seconds) is finished, or from another run."""


class TableProgress(TypedDict):
    """Number of a table's shards that are written, and the estimated time for the rest."""

    table: str
    n_done: int
    n_all: int
    left_s: float | None


class GoingOn(TypedDict):
    """The run that has locked the store, and the tables that are being written."""

    holder: str
    tables: list[TableProgress]


def going_on(root: Path, n_layers: int, n_features: int) -> GoingOn | None:
    """The run that has locked the store, and for every table that is being written the number of finished and of all
    shards, and the estimated time for the rest; None if the store is not locked.

    `n_layers` and `n_features` are those of the checkpoint that is described.
    """
    store = Store(root)
    if not is_held(store):
        return None
    holder = (root / "lock").read_text(encoding="utf-8", errors="replace").strip()
    tables = [_table(folder, n_layers, n_features) for folder in sorted(root.glob("parts/*/*")) if folder.is_dir()]
    return {"holder": holder, "tables": [table for table in tables if table is not None]}


def _table(folder: Path, n_layers: int, n_features: int) -> TableProgress | None:
    """Progress of one table of one recipe; None if it is not being written now."""
    found = [path for path in folder.glob("layer-*/*.parquet") if SHARD.fullmatch(path.name)]
    if not found:
        return None
    times = sorted(path.stat().st_mtime for path in found)
    if time.time() - times[-1] > FRESH_S:
        return None
    sizes = [int(match[2]) - int(match[1]) for path in found if (match := SHARD.fullmatch(path.name))]
    n_all = max(n_layers * -(-n_features // max(sizes)), len(found))
    pace = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None
    if len(found) == n_all:
        return None
    left_s = None if pace is None else pace * (n_all - len(found))
    return {"table": folder.parent.name, "n_done": len(found), "n_all": n_all, "left_s": left_s}
