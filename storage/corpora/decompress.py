"""Read files compressed with gzip or Zstandard."""

import gzip
import io
import zlib
from typing import IO

import pyarrow as pa

PACKINGS = (".gz", ".zst")
"""Suffixes of compressed files, after the suffix of the text file."""

DAMAGES = (gzip.BadGzipFile, EOFError, zlib.error, pa.ArrowException, OSError)
"""Errors that readers raise for damaged or truncated files. Arrow's readers raise a plain OSError; its subclasses may
also come from a network or a disk."""


def is_damage(error: Exception) -> bool:
    """Whether an error means that the file cannot be decompressed, rather than that it cannot be read."""
    if isinstance(error, OSError):
        return (type(error) is OSError and error.errno is None) or isinstance(error, gzip.BadGzipFile)
    return isinstance(error, DAMAGES)


class _Zstandard(io.RawIOBase):
    """The content of a Zstandard file, from its beginning."""

    def __init__(self, file: IO[bytes]) -> None:
        self._stream = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def unpacked(file: IO[bytes], packing: str) -> IO[bytes]:
    """A file, or its decompressed content. `packing` is one of `PACKINGS`, or empty."""
    if packing == ".gz":
        return gzip.GzipFile(fileobj=file)  # pyright: ignore[reportReturnType]
    if packing == ".zst":
        return io.BufferedReader(_Zstandard(file), 2**16)
    return file


def skip_to(file: IO[bytes], offset: int) -> None:
    """Move to a position in a file that has not been read yet; a file that cannot seek is read up to it."""
    if file.seekable():
        file.seek(offset)
        return
    while offset > 0 and (data := file.read(min(offset, 2**20))):
        offset -= len(data)
