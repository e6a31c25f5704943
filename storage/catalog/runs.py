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
    """The present, UTC, as the catalog keeps it."""
    return datetime.now(UTC).replace(tzinfo=None)


def new_run_id() -> str:
    return uuid.uuid4().hex[:12]


def mark_killed(catalog: Path) -> None:
    """Runs that the catalog calls running while nobody holds the store were killed."""
    if catalog.is_file():
        with open_catalog(catalog, write=True) as connection:
            connection.execute("UPDATE runs SET status = 'killed' WHERE status = 'running'")


def any_unended(catalog: Path) -> bool:
    """Whether the catalog calls a run running: one that is, or one that was killed."""
    if not catalog.is_file():
        return False
    with open_catalog(catalog) as connection:
        return connection.execute("SELECT count(*) FROM runs WHERE status = 'running'").fetchone() != (0,)


@contextmanager
def recorded(catalog: Path, row: Mapping[str, object]) -> Iterator[ReuseCount]:
    """Record a stage of a run as running, then as completed or failed, and publish the catalog. Yields the count of its
    shards, for the stage to keep."""
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
        with suppress(OSError, ValueError, duckdb.Error):  # the first error is the one to hear of
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
"""The latest of a stage, by which its next one is corrected."""

LEAST_S = 1.0
"""A stage for which the plan gave less says nothing of how fast its work is done."""


def corrections(catalog: Path) -> dict[str, float]:
    """By stage, how many times as long as the arithmetic said its latest runs took on this machine; nothing of stages
    that took shards over from other checkpoints, or that no plan was made for."""
    if not catalog.is_file():
        return {}
    with open_published(catalog) as connection:
        return dict(connection.execute(CORRECTIONS, [socket.gethostname(), LEAST_S, RUNS_COMPARED]).fetchall())


def _put(catalog: Path, row: Mapping[str, object]) -> None:
    with open_catalog(catalog, write=True) as connection:
        insert_row(connection, "runs", row)
