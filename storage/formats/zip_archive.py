"""Zip archives whose list of entries is short: .npz and .pt files."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_DIRECTORY_BYTES = 2_000_000
"""The list of entries at the end of an archive: a hundred bytes an entry, and a model has some thousands at most."""


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive, refusing one whose list of entries would take seconds to read.

    Raises:
        BadZipFile: not a zip file, or its list of entries is too long.
    """
    with path.open("rb", buffering=0) as raw, _Opening(raw) as file, zipfile.ZipFile(file) as archive:
        file.is_opening = False
        yield archive


class _Opening(io.BufferedReader):
    """A file of which, while it is being opened, nothing long is read at once: zipfile reads the list in one piece."""

    is_opening = True

    def read(self, size: int | None = -1, /) -> bytes:
        if self.is_opening and size is not None and size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"a list of entries of {size} bytes; expected at most {MAX_DIRECTORY_BYTES}")
        return super().read(size)
