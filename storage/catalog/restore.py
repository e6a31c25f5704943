"""Restore a damaged catalog from its published copy and the parts.

Nearly all rows of a catalog come from parts, and a stage whose rows are not marked as loaded loads its parts again.
Only the rows of `runs`, `llm_calls` and `watched`, and those of imported checkpoints, are in no part. The
published copy has all of them up to the last finished stage. If it is damaged too, readable rows of the
three tables are taken from either file, and imported checkpoints have to be imported again.
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
"""Tables whose rows are not stored in parts."""


def restore(catalog: Path) -> str | None:
    """Restore a catalog that is damaged, or missing while its copy exists. The caller must hold the store's lock.
    Returns a sentence that says what was done, None if there was nothing to do.

    Raises:
        CatalogBusyError: another process has it open.
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
        source = f"from the parts; of the tables without parts, {', '.join(kept) or 'none'} could be read"
    return (
        f"{catalog} was damaged ({problem}) and is restored {source}. Stages that it lacks load their parts again in "
        f"the next run.{kept_as}"
    )


def _salvage(catalog: Path, sources: Sequence[Path]) -> list[str]:
    """Create a catalog with the readable rows of tables without parts; returns these tables."""
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
            continue  # this table is in the damaged part of the file
    return None
