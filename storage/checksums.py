"""Files that contain their own checksum, which is checked on reading.

JSON files, Zarr's metadata, the footer of Parquet files and the header of safetensors files contain the text `crc32c:`
with eight hex digits: the CRC-32C of all bytes of the file, computed with zeros in place of these digits. The checksum
is in the file itself, so that a file is complete after any kill, and can be checked wherever it is copied. Files
written by an earlier version have none; they are read, and `doctor --store` says how many there are.
"""

import json
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from storage.layout import remedy

NAME = "checksum"
"""The key of a file's checksum."""

UNSTAMPED = "crc32c:00000000"
"""Value of the checksum before `stamp` fills it in."""

_MARK = re.compile(rb"crc32c:([0-9a-f]{8})")

_ENDS = 1 << 16
"""The checksum is within this many bytes of the start or the end of a file."""

_PIECE = 1 << 22
"""Files are read in pieces of this size."""

READ_ERRORS = (
    OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, OverflowError, MemoryError,
)  # fmt: skip
"""Errors that the readers of Zarr, Parquet and zip files raise for damaged bytes."""


class DamagedError(ValueError):
    """A file of a store does not have the content with which it was written."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(path, problem)
        self.path, self.problem = path, problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; the store is damaged: {remedy(self.path)}"


def one_line(error: BaseException) -> str:
    """An error's message, short enough to be part of another message."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def stamp(path: Path) -> None:
    """Put the checksum of a finished file in the place of its `UNSTAMPED`."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        at = _digits_at(file, size)
        assert at is not None, path
        checksum = _crc32c(file, size, at)
        file.seek(at)
        file.write(checksum)


def check_file(path: Path) -> bool:
    """Compare a file with its checksum, once for each process and state of the file; returns whether it has one.

    Raises:
        DamagedError: it is missing, or its bytes have changed.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise DamagedError(path, f"cannot be read ({error.strerror})") from None
    return _checked(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1 << 17)
def _checked(path: Path, _inode: int, size: int, _written_ns: int) -> bool:
    try:
        with path.open("rb") as file:
            at = _digits_at(file, size)
            if at is None:
                return False
            file.seek(at)
            expected, found = file.read(8), _crc32c(file, size, at)
    except OSError as error:
        raise DamagedError(path, f"cannot be read ({error.strerror})") from None
    if found != expected:
        raise DamagedError(path, f"its CRC-32C is {found.decode()}, expected {expected.decode()}")
    return True


def _digits_at(file: BinaryIO, size: int) -> int | None:
    """The position of the checksum's digits: the last near the file's end, or else the first near its start."""
    start = max(0, size - _ENDS)
    file.seek(start)
    marks = list(_MARK.finditer(file.read(_ENDS)))
    if marks:
        return start + marks[-1].start(1)
    file.seek(0)
    mark = _MARK.search(file.read(_ENDS))
    return mark.start(1) if mark else None


def _crc32c(file: BinaryIO, size: int, at: int) -> bytes:
    """The checksum of a file, as digits, computed with zeros in place of the digits at a position."""
    checksum = 0
    for start, stop in ((0, at), (at + 8, size)):
        file.seek(start)
        while start < stop:
            piece = file.read(min(_PIECE, stop - start))
            if not piece:
                raise OSError(0, "it became shorter while it was read")
            checksum, start = google_crc32c.extend(checksum, piece), start + len(piece)
        if stop == at:
            checksum = google_crc32c.extend(checksum, b"00000000")
    return f"{checksum:08x}".encode()


def json_text(value: Mapping[str, object]) -> str:
    """A document as JSON text with a placeholder for its checksum. Keys are sorted; the checksum comes last."""
    ordered = json.loads(json.dumps(value, sort_keys=True))
    return json.dumps({**ordered, NAME: UNSTAMPED}, indent=1) + "\n"


def read_document(path: Path) -> dict[str, object]:
    """Read a JSON document of a store and check its checksum.

    Raises:
        DamagedError: it is missing or damaged.
    """
    is_stamped = check_file(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(path, f"not readable as JSON ({one_line(error)})") from None
    if isinstance(value, dict) and value.pop(NAME, None) is not None and not is_stamped:
        raise DamagedError(path, "its checksum is unreadable")
    return value


def write_through(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk and survives a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
