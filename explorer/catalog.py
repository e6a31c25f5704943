"""Access to the published catalog for pages: always its newest copy, and with limits for every query."""

import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import duckdb
import pyarrow as pa

from explorer.errors import LimitError, NotFoundError
from explorer.meanings import Meanings
from explorer.words import Words
from storage.catalog.database import CatalogBusyError, checked_version, first_line, quoted
from storage.catalog.published import newest, published_path
from storage.search.lexical import Query, search_contexts, search_descriptions

T = TypeVar("T")

Row = dict[str, Any]
"""A row of a query's answer, by column; the types of its values depend on the query."""

MAX_TEXT = 4000
"""Largest number of characters of a text; longer texts end with an ellipsis."""

ROWS_AT_ONCE = 64
"""Rows fetched at a time before their texts are cut, so that only few huge texts are in memory."""

KEPT_PANELS = 64
"""Number of panels of whole checkpoints that are cached until a newer copy is opened."""


class Limits(NamedTuple):
    """Limits for one request."""

    seconds: float = 10.0
    """Seconds for all queries of a request together."""
    rows: int = 1000
    """Largest number of rows of a panel, unless the page asks for another."""
    memory: str = "192MB"
    """DuckDB's memory limit for all requests together."""
    threads: int = 2
    """Threads for one query."""
    pages: int = 4
    """Requests whose queries run at the same time and share the memory; others wait."""
    downloads: int = 2
    """Downloads at the same time. They may take minutes and must not block pages."""
    waiting: float = 30.0
    """Seconds that a request waits."""


class Panel(NamedTuple):
    """One table of a page, and its query."""

    title: str
    sql: str
    """The query with its values filled in, so that it can be copied and run."""
    rows: list[Row]
    cut: bool = False
    """Whether there are more rows."""


class Place(NamedTuple):
    """Where the catalog is, with related settings."""

    store: Path
    graphs: Path | None = None
    """Folder of attribution graphs."""
    prefect: str | None = None
    """Address of Prefect's pages."""
    meanings: Meanings | None = None
    """Finds descriptions with similar meaning."""


@dataclass
class Opened:
    """One open copy of the catalog, with values that are read only once."""

    connection: duckdb.DuckDBPyConnection
    stamp: tuple[int, int]
    words: Words
    checkpoints: list[Row] = field(default_factory=list)
    panels: dict[str, Panel] = field(default_factory=dict)


class Reader:
    """One request's connection to one copy of the catalog."""

    def __init__(self, opened: Opened, limits: Limits, place: Place) -> None:
        self.store, self.graphs, self.prefect, self._meanings = place
        self._words = opened.words
        self._opened = opened
        self._limits = limits
        self._cursor = opened.connection.cursor()
        self._cursor.execute("USE catalog")
        self._out_of_time = False

    @property
    def checkpoints(self) -> list[Row]:
        """All checkpoints of the store, the newest first."""
        return self._opened.checkpoints

    def checkpoint(self, checkpoint_id: str) -> Row:
        """One checkpoint's row.

        Raises:
            NotFoundError: there is no checkpoint with this id or name.
        """
        for row in self.checkpoints:
            if checkpoint_id in (row["checkpoint_id"], row["name"]):
                return row
        known = ", ".join(f"{row['checkpoint_id']} ({row['name']})" for row in self.checkpoints) or "none"
        raise NotFoundError(f"checkpoint {checkpoint_id!r} is not in this store; it has {known}")

    def panel(self, title: str, sql: str, values: Mapping[str, object], rows: int | None = None) -> Panel:
        """The first rows of a query's answer.

        Raises:
            LimitError: it exceeds the time or memory of a request.
        """
        wanted = self._limits.rows if rows is None else rows
        found = self._fetch(sql, values, wanted + 1)
        return Panel(title, shown_sql(sql, values), found[:wanted], len(found) > wanted)

    def kept_panel(self, title: str, sql: str, values: Mapping[str, object], rows: int | None = None) -> Panel:
        """A panel whose query reads a whole checkpoint; its result is cached for the current copy of the catalog."""
        key = f"{title}\n{shown_sql(sql, values)}\n{rows}"
        kept = self._opened.panels
        if key not in kept:
            found = self.panel(title, sql, values, rows)
            while len(kept) >= KEPT_PANELS:
                kept.pop(next(iter(kept)), None)
            kept[key] = found
        return kept[key]

    def search(self, words: str, checkpoint_id: str, layer: int | None, n: int) -> tuple[list[Row], list[Row]] | None:
        """Features by words in their descriptions and in the texts on which they fire, the best first; None while the
        index of words is being made."""
        index = self._words.index()
        if index is None:
            return None
        query = Query(words, checkpoint_id, layer, n)
        said = self._asked(partial(search_descriptions, self._cursor, index, query))
        fired = self._asked(partial(search_contexts, self._cursor, index, query))
        return [_plain_row(hit._asdict()) for hit in said], [_plain_row(hit._asdict()) for hit in fired]

    def alike(self, words: str, checkpoint_id: str, layer: int | None, n: int) -> tuple[list[Row], str | None] | None:
        """Features whose descriptions have a similar meaning to the words, and why there are none yet; None if no
        embedding model was named."""
        if self._meanings is None:
            return None
        query, stamp = Query(words, checkpoint_id, layer, n), self._opened.stamp[1]
        hits = self._asked(lambda: self._meanings and self._meanings.search(self._cursor, query, stamp))
        if hits is None:
            return [], self._meanings.failed or "the descriptions are being read; reload the page in some seconds"
        return [_plain_row(hit._asdict()) for hit in hits], None

    def batches(self, sql: str, values: Mapping[str, object]) -> pa.RecordBatchReader:
        """A query's complete answer as Arrow batches, for downloads."""
        used = {name: values[name] for name in set(PARAMETER.findall(sql))}
        return self._asked(lambda: self._cursor.sql(sql, params=used).to_arrow_reader(10_000))

    def _fetch(self, sql: str, values: Mapping[str, object], n: int) -> list[Row]:
        cursor = self._execute(sql, values)
        names = [column[0] for column in cursor.description]
        found: list[Row] = []
        while len(found) < n:
            rows = self._asked(partial(cursor.fetchmany, min(ROWS_AT_ONCE, n - len(found))))
            if not rows:
                break
            found += [_plain_row(dict(zip(names, row, strict=True))) for row in rows]
        return found

    def _execute(self, sql: str, values: Mapping[str, object]) -> duckdb.DuckDBPyConnection:
        used = {name: values[name] for name in set(PARAMETER.findall(sql))}
        return self._asked(partial(self._cursor.execute, sql, used))

    def _asked(self, ask: Callable[[], T]) -> T:
        if self._out_of_time:
            raise self._too_long()
        try:
            return ask()
        except duckdb.InterruptException:
            raise self._too_long() from None
        except duckdb.OutOfMemoryException:
            raise LimitError(
                f"this page needs more than the {self._limits.memory} of memory that pages may use; restrict it"
            ) from None

    def _too_long(self) -> LimitError:
        return LimitError(f"this page took longer than {self._limits.seconds:g} s; restrict it")

    def stop(self) -> None:
        """Stop the running query when the time limit is reached."""
        self._out_of_time = True
        self._cursor.interrupt()

    def close(self) -> None:
        """Give up the cursor; a running query must be stopped first."""
        self._cursor.close()


class Catalog:
    """The catalog of a store, for many readers at a time."""

    def __init__(self, path: Path, limits: Limits | None = None, place: Place | None = None) -> None:
        """Open the published catalog.

        Raises:
            ValueError: there is no catalog, or a newer version of the software wrote it.
        """
        if not path.is_file():
            raise ValueError(f"no catalog at {path}; has a run finished in this store?")
        self.path = path
        self.limits = limits or Limits()
        self._place = place or Place(path.parent)
        self._words = Words(path)
        self._opening = threading.Lock()
        self._opened = self._open()
        self._pages = threading.BoundedSemaphore(self.limits.pages)
        self._downloads = threading.BoundedSemaphore(self.limits.downloads)

    @property
    def checkpoints(self) -> list[Row]:
        """All checkpoints of the store, the newest first."""
        return self._opened.checkpoints

    def close(self) -> None:
        """Close the open copy."""
        self._opened.connection.close()

    def index_words(self) -> None:
        """Start making the index of words, if it is not up to date."""
        self._words.index()

    def reading(self, seconds: float | None = None) -> AbstractContextManager[Reader]:
        """A reader of the newest copy, for one page; the copy stays open until it ends.

        Raises:
            LimitError: too many other requests are being answered.
        """
        return self._reading(self._pages, self.limits.seconds if seconds is None else seconds)

    def downloading(self, seconds: float) -> AbstractContextManager[Reader]:
        """A reader for an answer of any length, with this limit in seconds."""
        return self._reading(self._downloads, seconds)

    @contextmanager
    def _reading(self, turns: threading.BoundedSemaphore, seconds: float) -> Iterator[Reader]:
        if not turns.acquire(timeout=self.limits.waiting):
            raise LimitError("too many other requests are being answered; try again in a moment")
        with ExitStack() as to_end:
            to_end.callback(turns.release)
            self._reopen_if_newer()
            reader = Reader(self._opened, self.limits, self._place)
            to_end.callback(reader.close)
            timer = threading.Timer(seconds, reader.stop)
            timer.daemon = True
            timer.start()
            to_end.callback(timer.cancel)
            yield reader

    def _reopen_if_newer(self) -> None:
        if self._stamp() == self._opened.stamp or not self._opening.acquire(blocking=False):
            return
        try:
            self._opened = self._open()
        except (OSError, ValueError):
            pass  # it is being replaced at this moment: the next request finds it complete
        finally:
            self._opening.release()

    def _stamp(self) -> tuple[int, int]:
        """Identifies a published copy."""
        path = published_path(self.path)
        try:
            found = (path if path.is_file() else self.path).stat()
        except FileNotFoundError:
            return (0, 0)
        return found.st_ino, found.st_mtime_ns

    def _open(self) -> Opened:
        path = newest(self.path)
        stamp = self._stamp()
        config: dict[str, str | bool | int | float | list[str]] = {
            "autoinstall_known_extensions": "false",
            "memory_limit": self.limits.memory,
            "threads": self.limits.threads,
            "temp_directory": "",
        }
        connection = duckdb.connect(config=config)
        try:
            connection.execute(f"ATTACH {quoted(path)} AS catalog (READ_ONLY); USE catalog")
        except duckdb.Error as error:
            raise CatalogBusyError(f"{path} cannot be read now ({first_line(error)})") from None
        checked_version(connection, path)
        connection.execute("SET enable_external_access = false")
        opened = Opened(connection, stamp, self._words)
        reader = Reader(opened, self.limits, self._place)
        opened.checkpoints = reader.panel("", CHECKPOINTS, {}).rows
        reader.close()
        return opened


CHECKPOINTS = "SELECT * FROM checkpoints ORDER BY ingested_at DESC, checkpoint_id"

PARAMETER = re.compile(r"\$([a-z_]+)")


def shown_sql(sql: str, values: Mapping[str, object]) -> str:
    """A query with its values filled in and without its indentation."""
    lines = PARAMETER.sub(lambda found: literal(values[found[1]]), sql).strip("\n").splitlines()
    indents = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    return "\n".join(line[min(indents, default=0) :].rstrip() for line in lines).strip()


def literal(value: object) -> str:
    """A value in SQL syntax."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal, value))}]"
    return "'" + str(value).replace("'", "''") + "'"


def _plain_row(row: Mapping[str, object]) -> Row:
    return {name: plain(value) for name, value in row.items()}


def plain(value: object) -> object:
    """A value for JSON and pages: texts are cut, NaN is replaced, times are in ISO 8601."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "…"
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime | date):
        return value.isoformat(timespec="seconds") if isinstance(value, datetime) else value.isoformat()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value
