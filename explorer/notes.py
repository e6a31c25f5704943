"""People's notes on features, their descriptions, and votes on descriptions, in a separate DuckDB file."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import duckdb

from explorer.catalog import Row
from explorer.errors import BadRequestError, LimitError
from storage.catalog.database import connect

MAX_TEXT = 2000
MAX_NOTES = 100_000
KINDS = ("note", "description", "vote")

DDL = """
    CREATE TABLE IF NOT EXISTS notes (
        number BIGINT, created_at TIMESTAMP, checkpoint_id VARCHAR, layer SMALLINT, feature INTEGER, kind VARCHAR,
        text VARCHAR, method VARCHAR, explainer VARCHAR, vote TINYINT
    )
"""


class NotedFeature(NamedTuple):
    """The feature of a note."""

    checkpoint_id: str
    layer: int
    feature: int


class Notes:
    """The file, opened for each request only, so that other programs can read it in between."""

    def __init__(self, path: Path) -> None:
        """Create the file if it is missing.

        Raises:
            ValueError: it is not a DuckDB file, or its folder cannot be written.
        """
        self._path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"--notes: {path.parent} cannot be made ({error.strerror})") from None
        with self._open() as connection:
            connection.execute(DDL)

    def add(self, about: NotedFeature, form: Mapping[str, str]) -> None:
        """Store a form about a feature.

        Raises:
            BadRequestError: it is empty or too long.
            LimitError: the file has the largest allowed number.
        """
        row = {"text": None, "method": None, "explainer": None, "vote": None, **_checked(form)}
        with self._open() as connection:
            number, n = connection.execute("SELECT coalesce(max(number), 0) + 1, count(*) FROM notes").fetchall()[0]
            if n >= MAX_NOTES:
                raise LimitError(f"there are already {MAX_NOTES} notes; start another file")
            values = [number, datetime.now(UTC).replace(tzinfo=None), *about, row["kind"], row["text"]]
            values += [row["method"], row["explainer"], row["vote"]]
            connection.execute("INSERT INTO notes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def rows(self, about: NotedFeature | None = None) -> list[Row]:
        """The notes on one feature, or all, the newest first."""
        query = "SELECT * FROM notes" + (" WHERE (checkpoint_id, layer, feature) = (?, ?, ?)" if about else "")
        with self._open() as connection:
            found = connection.execute(query + " ORDER BY number DESC", list(about or ()))
            names = [column[0] for column in found.description]
            rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
        return [{**row, "created_at": row["created_at"].isoformat(timespec="seconds")} for row in rows]

    def jsonl(self) -> Iterator[bytes]:
        """All notes, one JSON object on each line, the oldest first."""
        for row in reversed(self.rows()):
            yield (json.dumps(row, ensure_ascii=False) + "\n").encode()

    @contextmanager
    def _open(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._lock, connect(self._path, write=True, patience_s=5.0) as connection:
            yield connection


def _checked(form: Mapping[str, str]) -> dict[str, str | int]:
    """The fields of a note by its kind."""
    kind, text = form.get("kind", ""), form.get("text", "").replace("\r\n", "\n").strip()
    if kind not in KINDS:
        raise BadRequestError(f"kind is {kind[:50]!r}; expected {', '.join(KINDS)}")
    if kind == "vote":
        vote, method, explainer = form.get("vote"), form.get("method", ""), form.get("explainer", "")
        if vote not in ("1", "-1") or not 0 < len(method) <= 100 or not 0 < len(explainer) <= 100:
            raise BadRequestError("a vote is 1 or -1, on the description of a method by an explainer")
        return {"kind": kind, "vote": int(vote), "method": method, "explainer": explainer}
    if not 0 < len(text) <= MAX_TEXT:
        raise BadRequestError(f"text has {len(text)} characters; 1 to {MAX_TEXT} are kept")
    return {"kind": kind, "text": text}
