"""A damaged catalog, made again from its published copy and the parts.

Nearly all rows of a catalog come from parts, and a stage whose rows are not marked as loaded loads its parts again.
Rows that no part has are those of `runs`, `llm_calls` and `watched`, and of checkpoints that were imported. The
published copy has all of them up to the last stage that ended. Where that is damaged too, what can still be read of the
three tables is taken from either file, and imported checkpoints have to be imported again.
"""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa

from storage.catalog.database import check_database, open_catalog
from storage.catalog.published import published_path
from storage.checksums import DamagedError
from storage.store import whole_file

OF_NO_PART = ("runs", "llm_calls", "watched")
"""Tables whose rows are nowhere else."""


def restore(catalog: Path) -> str | None:
    """Make a catalog again that is damaged, or gone while its copy is there; only the store's holder may. Returns a
    sentence that says what was done, None if there was nothing to do.

    Raises:
        CatalogBusyError: another process keeps it open.
    """
    if not catalog.is_file():
        return _made_again(catalog, "missing") if published_path(catalog).is_file() else None
    try:
        check_database(catalog)
    except DamagedError as error:
        return _made_again(catalog, error.problem)
    return None


def _made_again(catalog: Path, problem: str) -> str:
    copy, now = published_path(catalog), datetime.now(UTC)
    aside = catalog.with_name(f"catalog.damaged-{now:%Y%m%dT%H%M%S%f}.duckdb")
    try:
        check_database(copy)
        is_whole = True
    except (DamagedError, ValueError):
        is_whole = False
    kept_as = ""
    if catalog.is_file():
        catalog.replace(aside)
        kept_as = f" The damaged file is kept as {aside.name}"
    catalog.with_name(f"{catalog.name}.wal").unlink(missing_ok=True)
    if is_whole:
        with whole_file(catalog) as partial:
            shutil.copyfile(copy, partial)
        source = f"from {copy.name}"
    else:
        kept = _salvage(catalog, [aside, copy])
        copy.unlink(missing_ok=True)
        source = f"from the parts; of what no part has, {', '.join(kept) or 'nothing'} could still be read"
    return (
        f"{catalog} was damaged ({problem}) and is made again {source}. Stages that it lacks load their parts again in "
        f"the next run.{kept_as}"
    )


def _salvage(catalog: Path, sources: Sequence[Path]) -> list[str]:
    """Make a new catalog with what the sources still say of tables that no part has; returns these tables."""
    found = {table: rows for table in OF_NO_PART for rows in [_rows(sources, table)] if rows is not None}
    with open_catalog(catalog, write=True) as connection:
        for table, rows in found.items():
            connection.register("salvaged", rows)
            connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM salvaged")
            connection.unregister("salvaged")
    return list(found)


def _rows(sources: Sequence[Path], table: str) -> pa.Table | None:
    for source in sources:
        try:
            with duckdb.connect(source, read_only=True) as connection:
                return connection.sql(f"SELECT * FROM {table}").to_arrow_table()
        except duckdb.Error:
            continue  # this table lies in the damaged part of the file
    return None
