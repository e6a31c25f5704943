"""Read slices of Zarr arrays in which nothing may be missing."""

from pathlib import Path
from typing import Any

import numpy as np
import zarr


def open_whole(path: Path, start: int | None, stop: int | None, remedy: str) -> zarr.Array[Any]:
    """Open an array after checking that the chunks of some rows are there: Zarr reads a missing one as zeros.

    `remedy` says what to do about a damaged store.

    Raises:
        ValueError: the array or a chunk of it is missing.
    """
    try:
        array = zarr.open_array(path, mode="r")
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise _damaged(path, f"no readable array ({_one_line(error)})", remedy) from None
    low, high, _ = slice(start, stop).indices(array.shape[0])
    for chunk in range(low // array.chunks[0], -(-high // array.chunks[0]) if high > low else 0):
        file = path.joinpath("c", str(chunk), *["0"] * (array.ndim - 1))
        if not file.is_file():
            raise _damaged(path, f"chunk {chunk} is missing", remedy)
    return array


def read_slice(array: zarr.Array[Any], start: int | None, stop: int | None, remedy: str) -> np.ndarray:
    """Some rows of an array.

    Raises:
        ValueError: a chunk cannot be read.
    """
    try:
        return np.asarray(array[start:stop])
    except (ValueError, OSError, RuntimeError) as error:
        raise _damaged(Path(str(array.store_path)), f"unreadable chunk ({_one_line(error)})", remedy) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _damaged(path: Path, problem: str, remedy: str) -> ValueError:
    return ValueError(f"{path}: {problem}; the store is damaged: {remedy}")
