"""What readers open: a copy of the catalog for which no writer waits, and that waits for none.

DuckDB lets a file be open for writing in one process or for reading in several, never both. So a run writes
`catalog.duckdb`, and after every stage puts a copy beside it by renaming. Whoever has an older copy open keeps it.
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
"""A copy that is half made and so long unchanged is a killed process's."""

CANNOT_BE_WRITTEN = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)


def _to_stderr(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def published_path(catalog: Path) -> Path:
    return catalog.with_name("catalog.published.duckdb")


@contextmanager
def open_published(catalog: Path, notify: Callable[[str], None] = _to_stderr) -> Iterator[duckdb.DuckDBPyConnection]:
    """A read-only connection to what was last published, for as long as one likes.

    What was written since the last copy is published first, unless somebody is writing at this moment. Where no copy
    can be made (a store that is read-only for the reader, a full disk), the catalog itself is opened. `notify` is told
    where the catalog is damaged and an earlier copy is read in its place.

    Raises:
        DamagedError: what is read is damaged.
        ValueError: there is no catalog, or a newer version of the software wrote it.
    """
    if not catalog.is_file():
        raise ValueError(f"no catalog at {catalog}; has a run finished in this store?")
    path = newest(catalog, notify)
    # Attached, not opened: in one process DuckDB would give every opener the copy that the first of them opened.
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    try:
        try:
            with damage_named(path):
                connection.execute(f"ATTACH {quoted(path)} AS catalog (READ_ONLY); USE catalog")
        except duckdb.Error as error:
            raise CatalogBusyError(f"{path} cannot be read now ({first_line(error)})") from None
        with damage_named(path):
            if checked_version(connection, path) < SCHEMA_VERSION:
                raise ValueError(
                    f"{path} is of an earlier version, and its folder cannot be written to bring it forward"
                )
            yield connection
    finally:
        connection.close()


def newest(catalog: Path, notify: Callable[[str], None] = _to_stderr) -> Path:
    """The published copy, made anew if it is behind and nobody writes; the catalog itself where none can be made.

    A damaged catalog is not copied over a good copy: that is read, and `notify` is told.

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
    """Copy the catalog for readers, in today's schema; the copy carries the catalog's time, by which it is known.

    The copy is put in its place only after it was opened, its tables counted and all their blocks read.

    Raises:
        DamagedError: the catalog is damaged.
        ValueError: a newer version of the software wrote it.
        CatalogBusyError: somebody was still writing after `patience_s`.
    """
    if _log(catalog).exists():  # of a writer that was killed: opening merges it
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
                    with duckdb.connect(partial) as changing, damage_named(catalog):
                        bring_forward(changing)
                check_database(partial)
            except DamagedError as error:
                raise DamagedError(catalog, error.problem) from None
            stamp = catalog.stat().st_mtime_ns
            os.utime(partial, ns=(stamp, stamp))


def sweep_published(catalog: Path) -> None:
    """Remove what killed publications left half copied."""
    for path in abandoned_copies(catalog):
        with suppress(OSError):  # another reader sweeps too, or the store is read-only
            path.unlink()


def abandoned_copies(catalog: Path) -> list[Path]:
    """Copies that are half made, and on which nobody has worked for a while."""
    found, oldest = [], time.time() - ABANDONED_S
    for path in catalog.parent.glob(f"{published_path(catalog).name}.*{PARTIAL}*"):
        with suppress(FileNotFoundError):
            found += [path] if path.stat().st_mtime < oldest else []
    return found


def _log(catalog: Path) -> Path:
    """DuckDB's write-ahead log: there while somebody writes, or after a writer was killed."""
    return catalog.with_name(catalog.name + ".wal")
