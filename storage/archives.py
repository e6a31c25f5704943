"""Small NumPy arrays in one file: a zip archive, which stores a CRC-32 of each array and checks it on reading."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from storage.checksums import READ_ERRORS, DamagedError, one_line
from storage.store import whole_file


def write_arrays(path: Path, arrays: Mapping[str, ArrayLike]) -> None:
    """Write named arrays completely or not at all."""
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of a file.

    Raises:
        DamagedError: it is missing or damaged.
    """
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, *READ_ERRORS) as error:
        raise DamagedError(path, f"unreadable arrays ({one_line(error)})") from None
