"""The sizes in the page headers of a Parquet column. A reader allocates memory by these, whatever the footer says.

A page's header is a struct of Thrift's compact protocol: https://github.com/apache/parquet-format, `PageHeader`.
"""

from collections.abc import Callable
from typing import IO, NamedTuple

MAX_HEADER_BYTES = 2**24
"""Longest header of a page, which may include the least and the greatest value of the page."""

MAX_DEPTH, MAX_FIELDS = 8, 64
"""Limits for the nesting of structs and for the fields of a struct. A page's header has three levels and eight
fields."""

UNPACKED, PACKED = 2, 3
"""Numbers of the header's fields that are read."""

Struct = dict[int, "int | Struct"]


class PageError(ValueError):
    """There is no page where one should be, or one that is refused."""


class Page(NamedTuple):
    """Size of a page in the file and in memory, in bytes."""

    packed: int
    unpacked: int


class WatchedPages:
    """A file for a reader of Parquet. When the reader comes to a page of the watched column, the page header is checked
    before the reader gets its bytes; nothing is read twice."""

    def __init__(self, file: IO[bytes], look: Callable[[Page], None]) -> None:
        """`look` raises a PageError to refuse a page; the reader then ends with it."""
        self._file, self._look = file, look
        self._page = self._end = 0
        self._header = b""
        self.closed = False

    def watch(self, start: int, n_bytes: int) -> None:
        """Watch a column's part of a row group from its first page on."""
        self._page, self._end, self._header = start, start + n_bytes, b""

    def read(self, n: int = -1) -> bytes:
        """Read bytes, after checking the pages that begin in them."""
        at = self._file.tell()
        data = self._file.read(n)
        wanted = self._page + len(self._header)
        if self._page < self._end:
            if wanted < at < self._end:
                raise PageError(f"the bytes after {wanted} are skipped")
            if wanted < at + len(data):
                self._see(self._header + data[max(0, wanted - at) :])
        return data

    def _see(self, data: bytes) -> None:
        """Check the pages that begin in these bytes, the first of which begin with a page."""
        at = 0
        while at < len(data) and self._page < self._end:
            try:
                header, after = _struct(data, at, 0)
            except IndexError:
                self._header = data[at:]
                if len(self._header) > MAX_HEADER_BYTES:
                    raise PageError(f"no page at byte {self._page}") from None
                return
            except PageError as error:
                raise PageError(f"no page at byte {self._page}: {error}") from None
            packed, unpacked = header.get(PACKED), header.get(UNPACKED)
            if not isinstance(packed, int) or not isinstance(unpacked, int) or packed < 0 or unpacked < 0:
                raise PageError(f"no page at byte {self._page}")
            self._look(Page(packed, unpacked))
            self._page += after - at + packed
            at = after + packed
        self._header = b""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The current position."""
        return self._file.tell()

    def close(self) -> None:
        """Do nothing: the file is closed by its owner."""


def _struct(data: bytes, at: int, depth: int) -> tuple[Struct, int]:
    """Parse a struct: its whole numbers and structs by field number, and the position after it. Other values are
    skipped.

    Raises:
        IndexError: it is longer than the data.
        PageError: it is not a struct.
    """
    if depth > MAX_DEPTH:
        raise PageError("structs too deep")
    found: Struct = {}
    number = n_fields = 0
    while head := data[at]:
        at, n_fields = at + 1, n_fields + 1
        if n_fields > MAX_FIELDS:
            raise PageError("too many fields")
        if head >> 4:
            number += head >> 4
        else:
            number, at = _signed(data, at)
        value, at = _value(data, at, head & 15, depth)
        if value is not None:
            found[number] = value
    return found, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple["int | Struct | None", int]:
    """Parse a value of one of the kinds in such headers (None if it is not used); returns it and the position after
    it."""
    if kind in (1, 2):  # true and false have no bytes of their own
        return None, at
    if kind in (4, 5, 6):
        return _signed(data, at)
    if kind == 8:
        length, at = _unsigned(data, at)
        return None, at + length
    if kind == 12:
        return _struct(data, at, depth + 1)
    raise PageError(f"a value of kind {kind}")


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
        if shift > 63:
            raise PageError("a number of more than 64 bits")


def _signed(data: bytes, at: int) -> tuple[int, int]:
    value, at = _unsigned(data, at)
    return value >> 1 ^ -(value & 1), at
