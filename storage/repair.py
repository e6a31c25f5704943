"""Remove damaged derived outputs of a store, so that the next run makes them again."""

import json
from collections.abc import Iterable
from pathlib import Path

import duckdb

from storage.bucket.working_copy import forget
from storage.catalog.database import open_catalog
from storage.catalog.restore import restore
from storage.damage import Finding
from storage.layout import Check, placed
from storage.store import Store, remove_folder


def repair(store: Store, findings: Iterable[Finding]) -> list[str]:
    """Remove what is damaged and was made from other files of the store, and its records in the catalog; a damaged
    catalog is made again. The caller must hold the store's lock. Returns a sentence for each thing that was done.

    Files from outside the store are not removed: see `storage.layout.Origin`.
    """
    found = [finding for finding in findings if finding.problem and finding.kind.is_repaired]
    done, units = [], dict.fromkeys(_unit(finding.path) for finding in found)
    if any(finding.kind.check is Check.DUCKDB for finding in found):
        done += filter(None, [restore(store.catalog)])
    for unit in units:
        name = unit.relative_to(store.root).as_posix()
        if unit != store.catalog and unit.exists():
            _remove(unit)
            _unmark(store, name)
            done.append(f"{name} is removed")
    return done


def _unit(path: Path) -> Path:
    place = placed(path)
    assert place is not None, path
    return place.unit


def _remove(unit: Path) -> None:
    if unit.is_dir():
        forget(unit)
        remove_folder(unit)
    else:
        unit.unlink()


def _unmark(store: Store, name: str) -> None:
    """Remove the records in the catalog that stages are loaded which used a removed file or folder: the next run
    computes what is missing and loads these stages again from their parts."""
    folder, *names = name.split("/")
    if not store.catalog.is_file() or folder in ("equals", "answers") or not names:
        return
    with open_catalog(store.catalog, write=True) as connection:
        if folder == "checkpoints":
            checkpoints = {names[0]}
        else:
            recipe = names[1] if folder == "parts" else names[0]
            connection.execute("DELETE FROM loaded WHERE recipe = ?", [recipe])
            checkpoints = _resting_on(connection, names[0] if folder == "parts" else folder, recipe)
        for checkpoint in checkpoints:
            connection.execute("DELETE FROM loaded WHERE subject = $1 OR starts_with(subject, $1 || ' ')", [checkpoint])


def _resting_on(connection: duckdb.DuckDBPyConnection, table: str, recipe: str) -> set[str]:
    """The checkpoints whose rows came from files of a recipe; all, if that was not recorded."""
    query = "SELECT selected FROM loaded_parts WHERE recipe = ? AND (table_name = ? OR ? = 'attributions')"
    rows = connection.execute(query, [recipe, table, table]).fetchall()
    selected = [item for (text,) in rows for item in json.loads(text).items()]
    found = {str(value) for key, value in selected if key.startswith("checkpoint")}
    if found or table != "evaluation":
        return found
    return {row[0] for row in connection.execute("SELECT checkpoint_id FROM checkpoints").fetchall()}
