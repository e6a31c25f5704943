"""Files packed with gzip or Zstandard, read as what was packed."""

import gzip
import io
import zlib
from typing import IO

import pyarrow as pa

PACKINGS = (".gz", ".zst")
"""Suffixes behind that of a text file."""

DAMAGES = (gzip.BadGzipFile, EOFError, zlib.error, pa.ArrowException, OSError)
"""What the readers of damaged or cut off files raise. Arrow's raise a plain OSError; a subclass of it may as well come
from a network or a disk."""


def is_damage(error: Exception) -> bool:
    """Whether an error says that what was packed cannot be unpacked, and not that it cannot be had."""
    if isinstance(error, OSError):
        return (type(error) is OSError and error.errno is None) or isinstance(error, gzip.BadGzipFile)
    return isinstance(error, DAMAGES)


class _Zstandard(io.RawIOBase):
    """What a Zstandard file holds, from its beginning on."""

    def __init__(self, file: IO[bytes]) -> None:
        self._stream = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def unpacked(file: IO[bytes], packing: str) -> IO[bytes]:
    """A file, or what is packed in it. `packing` is one of `PACKINGS`, or empty."""
    if packing == ".gz":
        return gzip.GzipFile(fileobj=file)  # pyright: ignore[reportReturnType]
    if packing == ".zst":
        return io.BufferedReader(_Zstandard(file), 2**16)
    return file


def skip_to(file: IO[bytes], offset: int) -> None:
    """Go to a place in a file that was not read yet; of one that knows no places, read up to it."""
    if file.seekable():
        file.seek(offset)
        return
    while offset > 0 and (data := file.read(min(offset, 2**20))):
        offset -= len(data)
