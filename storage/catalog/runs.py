"""The catalog's record of runs."""

import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import duckdb

from storage.catalog.database import insert_row, open_catalog
from storage.catalog.published import open_published, publish
from storage.shared_shards import ReuseCount


def now() -> datetime:
    """The current time (UTC) in the catalog's format."""
    return datetime.now(UTC).replace(tzinfo=None)


def new_run_id() -> str:
    """A new id for a run."""
    return uuid.uuid4().hex[:12]


def mark_killed(catalog: Path) -> None:
    """Mark runs as killed that are recorded as running while no process has locked the store."""
    if catalog.is_file():
        with open_catalog(catalog, write=True) as connection:
            connection.execute("UPDATE runs SET status = 'killed' WHERE status = 'running'")


def any_unended(catalog: Path) -> bool:
    """Whether a run is recorded as running, including killed ones."""
    if not catalog.is_file():
        return False
    with open_catalog(catalog) as connection:
        return connection.execute("SELECT count(*) FROM runs WHERE status = 'running'").fetchone() != (0,)


@contextmanager
def recorded(catalog: Path, row: Mapping[str, object]) -> Iterator[ReuseCount]:
    """Record a stage of a run as running, then as completed or failed, and publish the catalog. Yields the count of its
    shards, which the stage updates."""
    row = {
        **row,
        "status": "running",
        "started_at": now(),
        "code_version": version("circuit-insights"),
        "host": socket.gethostname(),
    }
    _put(catalog, row)
    began = time.monotonic()
    tally = ReuseCount()
    try:
        yield tally
    except BaseException as error:
        message = f"{type(error).__name__}: {error}"[:2000]
        status = "failed" if isinstance(error, Exception) else "killed"
        with suppress(OSError, ValueError, duckdb.Error):  # only the first error is reported
            _put(catalog, {**row, "status": status, "finished_at": now(), "error": message})
            publish(catalog)
        raise
    counts = asdict(tally) if tally.n_shards else {}
    took = {"finished_at": now(), "actual_s": time.monotonic() - began}
    _put(catalog, {**row, **counts, "status": "completed", **took})
    publish(catalog)


CORRECTIONS = """
    SELECT stage, median(actual_s / uncorrected_s) FROM (
        SELECT * FROM runs WHERE status = 'completed' AND host = ? AND uncorrected_s >= ? AND coalesce(n_reused, 0) = 0
        QUALIFY row_number() OVER (PARTITION BY stage ORDER BY started_at DESC) <= ?
    ) GROUP BY stage
"""

RUNS_COMPARED = 5
"""Number of a stage's latest runs from which its correction is computed."""

LEAST_S = 1.0
"""Seconds by the plan below which a stage's run is too short to compute a correction from."""


def corrections(catalog: Path) -> dict[str, float]:
    """For each stage, the ratio of actual to planned time in its latest runs on this machine. Runs that copied shards
    from other checkpoints, or that had no plan, are left out."""
    if not catalog.is_file():
        return {}
    with open_published(catalog) as connection:
        return dict(connection.execute(CORRECTIONS, [socket.gethostname(), LEAST_S, RUNS_COMPARED]).fetchall())


def _put(catalog: Path, row: Mapping[str, object]) -> None:
    with open_catalog(catalog, write=True) as connection:
        insert_row(connection, "runs", row)
