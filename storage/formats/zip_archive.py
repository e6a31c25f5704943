"""Zip archives (.npz and .pt files) whose list of entries is short."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_DIRECTORY_BYTES = 2_000_000
"""Limit for the list of entries at the end of an archive: an entry has a hundred bytes, and a model some thousands."""


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive; refuse one whose list of entries would take seconds to read.

    Raises:
        BadZipFile: it is not a zip file, or its list of entries is too long.
    """
    with path.open("rb", buffering=0) as raw, _Opening(raw) as file, zipfile.ZipFile(file) as archive:
        file.is_opening = False
        yield archive


class _Opening(io.BufferedReader):
    """A file that refuses long reads while it is being opened, since zipfile reads the list of entries at once."""

    is_opening = True

    def read(self, size: int | None = -1, /) -> bytes:
        if self.is_opening and size is not None and size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"a list of entries of {size} bytes; expected at most {MAX_DIRECTORY_BYTES}")
        return super().read(size)
