"""Zarr arrays with checksums, which are checked on reading: neither missing nor changed data goes unnoticed.

Each chunk is followed by its CRC-32C (Zarr's codec of that name), which Zarr checks whenever it reads the chunk. The
metadata file `zarr.json` contains a checksum of its own (see `storage.checksums`).
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict

import google_crc32c
import numpy as np
import zarr
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import Crc32cCodec
from zarr.core.array_spec import ArrayConfigParams
from zarr.types import ArrayV3

from storage.checksums import NAME, READ_ERRORS, UNSTAMPED, DamagedError, check_file, one_line, stamp
from storage.store import whole_file

WHOLE: ArrayConfigParams = {"write_empty_chunks": True}
"""Configuration of arrays in which every chunk has a file, so that a missing file is always damage."""


def with_checksum(*compressors: BytesBytesCodec) -> tuple[BytesBytesCodec, ...]:
    """The codecs of an array whose chunks have checksums, which come after compression."""
    return (*compressors, Crc32cCodec())


def stamp_metadata(folder: Path, *, inner: bool = True) -> None:
    """Put checksums into the `zarr.json` of a group or array, and with `inner` into those of all arrays in it."""
    for path in sorted(folder.rglob("zarr.json")) if inner else [folder / "zarr.json"]:
        document = json.loads(path.read_text(encoding="utf-8"))
        document["attributes"] = {**document.get("attributes", {}), NAME: UNSTAMPED}
        with whole_file(path) as partial:
            partial.write_text(json.dumps(document, indent=2), encoding="utf-8")
            stamp(partial)


class ZarrDocument(TypedDict):
    """The parts of a `zarr.json` that are used here."""

    node_type: str
    attributes: dict[str, object]


def read_metadata(path: Path) -> ZarrDocument:
    """Read the zarr.json of a group or array, without its checksum.

    Raises:
        DamagedError: it is missing or damaged.
    """
    file = path / "zarr.json"
    is_stamped = check_file(file)
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        document["attributes"] = dict(document.get("attributes", {}))
    except (*READ_ERRORS, RecursionError) as error:
        raise DamagedError(file, f"no readable metadata ({one_line(error)})") from None
    if document["attributes"].pop(NAME, None) is not None and not is_stamped:
        raise DamagedError(file, "its checksum is unreadable")
    return document


def read_attributes(path: Path) -> dict[str, object]:
    """Read the attributes of a group or array.

    Raises:
        DamagedError: its zarr.json is missing or damaged.
    """
    return read_metadata(path)["attributes"]


def open_array(path: Path) -> ArrayV3:
    """Open an array for reading, after checking its zarr.json.

    Raises:
        DamagedError: the array is missing, or its zarr.json is damaged.
    """
    read_attributes(path)
    try:
        return zarr.open_array(path, mode="r")
    except READ_ERRORS as error:
        raise DamagedError(path / "zarr.json", f"no readable array ({one_line(error)})") from None


def open_whole(path: Path, start: int | None, stop: int | None) -> ArrayV3:
    """Open an array after checking that the chunks of some rows exist, since Zarr reads a missing one as zeros.

    Raises:
        DamagedError: the array or a chunk of it is missing, or its zarr.json is damaged.
    """
    array = open_array(path)
    low, high, _ = slice(start, stop).indices(array.shape[0])
    chunks = range(low // array.chunks[0], -(-high // array.chunks[0]) if high > low else 0)
    require_chunks(path, array, chunks)
    return array


def require_chunks(path: Path, array: ArrayV3, chunks: Iterable[int]) -> None:
    """Check that the chunks of some rows exist.

    Raises:
        DamagedError: one is missing.
    """
    for file in _files_of(path, array, chunks):
        if not file.is_file():
            raise DamagedError(file, "missing")


def read_slice(array: ArrayV3, path: Path, start: int | None, stop: int | None) -> np.ndarray:
    """Read some rows of an array.

    Raises:
        DamagedError: a chunk cannot be read, or its checksum does not match.
    """
    try:
        return np.asarray(array[start:stop])
    except READ_ERRORS as error:
        low, high, _ = slice(start, stop).indices(array.shape[0])
        chunks = range(low // array.chunks[0], -(-high // array.chunks[0]))
        raise damaged_chunk(array, _files_of(path, array, chunks), error) from None


def read_rows(path: Path, rows: np.ndarray) -> np.ndarray:
    """Read rows of an array by number, given in ascending order.

    Raises:
        DamagedError: one of their chunks is missing or cannot be read, or its checksum does not match.
    """
    array = open_array(path)
    chunks = np.unique(rows // array.chunks[0]).tolist()
    if has_checksums(array):
        require_chunks(path, array, chunks)
    try:
        return np.asarray(array.oindex[rows])
    except READ_ERRORS as error:
        raise damaged_chunk(array, _files_of(path, array, chunks), error) from None


def has_checksums(array: ArrayV3) -> bool:
    """Whether the chunks have checksums; those of earlier versions have none."""
    return any(isinstance(codec, Crc32cCodec) for codec in array.compressors)


def damaged_chunk(array: ArrayV3, files: Sequence[Path], error: BaseException) -> DamagedError:
    """The message for chunks that could not be read: which file is damaged, and how."""
    for file in files if has_checksums(array) else []:
        data = file.read_bytes() if file.is_file() else b""
        expected, found = int.from_bytes(data[-4:], "little"), google_crc32c.value(data[:-4])
        if expected != found:
            return DamagedError(file, f"its CRC-32C is {found:08x}, expected {expected:08x}")
    return DamagedError(files[0], f"unreadable chunk, this or one after it ({one_line(error)})")


def check_chunks(path: Path) -> bool:
    """Read a whole array, chunk by chunk; returns whether its chunks have checksums.

    Raises:
        DamagedError: a chunk is damaged, or missing where every chunk must have a file.
    """
    array = open_array(path)
    if has_checksums(array):
        require_chunks(path, array, range(-(-array.shape[0] // array.chunks[0])))
    for start in range(0, array.shape[0], array.chunks[0]):
        read_slice(array, path, start, start + array.chunks[0])
    return has_checksums(array)


def _files_of(path: Path, array: ArrayV3, chunks: Iterable[int]) -> list[Path]:
    """The files with the chunks of some rows: one each, if no other dimension is divided."""
    files = [path / "c" / str(chunk) for chunk in chunks]
    for size, step in zip(array.shape[1:], array.chunks[1:], strict=True):
        files = [file / str(at) for file in files for at in range(-(-size // step))]
    return files
