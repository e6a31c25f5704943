"""The published copy of the catalog, so that readers and the writer do not wait for each other.

DuckDB allows a file to be open for writing in one process or for reading in several, never both. So a run writes
`catalog.duckdb`, and after every stage replaces a copy of it by renaming. A reader with an older copy open keeps it.
"""

import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from storage.catalog.database import (
    LOCK_PATIENCE_S,
    SCHEMA_VERSION,
    WRITER_MEMORY,
    CatalogBusyError,
    bring_forward,
    check_database,
    checked_version,
    connect,
    damage_named,
    first_line,
    quoted,
)
from storage.checksums import DamagedError
from storage.layout import PARTIAL
from storage.store import whole_file

COPY_BYTES = 1 << 22
"""A copy is made in pieces of this size."""

ABANDONED_S = 600.0
"""An unfinished copy that has not changed for this long (in seconds) was left by a killed process."""

CANNOT_BE_WRITTEN = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)


def _to_stderr(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def published_path(catalog: Path) -> Path:
    """The file of the published copy."""
    return catalog.with_name("catalog.published.duckdb")


@contextmanager
def open_published(catalog: Path, notify: Callable[[str], None] = _to_stderr) -> Iterator[duckdb.DuckDBPyConnection]:
    """A read-only connection to the published copy, which may stay open for any time.

    If the catalog has changed since the last copy, it is published first, unless a process is writing. If no copy
    can be made (a store that is read-only for the reader, a full disk), the catalog itself is opened. `notify` gets a
    sentence if the catalog is damaged and an earlier copy is read in its place.

    Raises:
        DamagedError: what is read is damaged.
        ValueError: there is no catalog, or a newer version of the software wrote it.
    """
    if not catalog.is_file():
        raise ValueError(f"no catalog at {catalog}; has a run finished in this store?")
    path = newest(catalog, notify)
    # Attached, not opened: DuckDB shares an opened file within a process, so that an older copy would be opened again.
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    try:
        try:
            with damage_named(path):
                connection.execute(f"ATTACH {quoted(path)} AS catalog (READ_ONLY); USE catalog")
        except duckdb.Error as error:
            raise CatalogBusyError(f"{path} cannot be read now ({first_line(error)})") from None
        with damage_named(path):
            current_version(connection, path)
            yield connection
    finally:
        connection.close()


def current_version(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Refuse a catalog that is not of the current schema, which is read where no copy could be made.

    Raises:
        ValueError: it is of an earlier version, or a newer version of the software wrote it.
    """
    if checked_version(connection, path) < SCHEMA_VERSION:
        raise ValueError(f"{path} is of an earlier version, and its folder cannot be written to bring it forward")


def newest(catalog: Path, notify: Callable[[str], None] = _to_stderr) -> Path:
    """The published copy, updated if the catalog is newer and not being written; the catalog itself if no copy can be
    made.

    A damaged catalog does not replace a good copy: the copy is read, and `notify` gets a sentence.

    Raises:
        DamagedError: the catalog is damaged, and so is the copy, or there is none.
    """
    path = published_path(catalog)
    try:
        is_current, is_readable = _is_current(path, catalog), path.is_file()
    except DamagedError:
        is_current = is_readable = False
    if is_current:
        return path
    sweep_published(catalog)
    try:
        publish(catalog, patience_s=0 if is_readable else LOCK_PATIENCE_S)
    except CatalogBusyError:
        if not is_readable:
            raise
    except DamagedError as error:
        if not is_readable:
            raise
        notify(f"{catalog} is damaged ({error.problem}); this is from {path.name}, and the next run makes it again")
    except OSError as error:
        if error.errno not in CANNOT_BE_WRITTEN:
            raise
        return catalog
    return path


def _is_current(path: Path, catalog: Path) -> bool:
    if not path.is_file() or _log(catalog).exists() or path.stat().st_mtime_ns != catalog.stat().st_mtime_ns:
        return False
    with connect(path, write=False) as connection:
        return checked_version(connection, path) == SCHEMA_VERSION


def publish(catalog: Path, patience_s: float = LOCK_PATIENCE_S) -> None:
    """Copy the catalog for readers, in the current schema. The copy gets the catalog's modification time, by which
    it is recognised as up to date.

    The copy replaces the earlier one only after it was opened, its tables counted and all their blocks read.

    Raises:
        DamagedError: the catalog is damaged.
        ValueError: a newer version of the software wrote it.
        CatalogBusyError: another process was still writing after `patience_s`.
    """
    if _log(catalog).exists():  # left by a killed writer: opening the file merges it
        connect(catalog, write=True, patience_s=patience_s).close()
    # The lock is the process's, and closing any handle of the file gives it up: so the file is closed after the
    # copy is in its place.
    with connect(catalog, write=False, patience_s=patience_s) as connection, catalog.open("rb") as source:
        with damage_named(catalog):
            version = checked_version(connection, catalog)
        with whole_file(published_path(catalog)) as partial:
            with partial.open("wb") as copy:
                shutil.copyfileobj(source, copy, COPY_BYTES)
            try:
                if version < SCHEMA_VERSION:
                    bound: dict[str, str | bool | int | float | list[str]] = {
                        "memory_limit": WRITER_MEMORY,
                        "autoinstall_known_extensions": "false",
                    }
                    with duckdb.connect(partial, config=bound) as changing, damage_named(catalog):
                        bring_forward(changing)
                check_database(partial)
            except DamagedError as error:
                raise DamagedError(catalog, error.problem) from None
            stamp = catalog.stat().st_mtime_ns
            os.utime(partial, ns=(stamp, stamp))


def sweep_published(catalog: Path) -> None:
    """Remove unfinished copies that killed processes left."""
    for path in abandoned_copies(catalog):
        with suppress(OSError):  # another reader removes it too, or the store is read-only
            path.unlink()


def abandoned_copies(catalog: Path) -> list[Path]:
    """Unfinished copies that have not changed for a while."""
    found, oldest = [], time.time() - ABANDONED_S
    for path in catalog.parent.glob(f"{published_path(catalog).name}.*{PARTIAL}*"):
        with suppress(FileNotFoundError):
            found += [path] if path.stat().st_mtime < oldest else []
    return found


def _log(catalog: Path) -> Path:
    """DuckDB's write-ahead log, which exists during writing and after a writer was killed."""
    return catalog.with_name(catalog.name + ".wal")
