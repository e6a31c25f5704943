"""Read every file of a store and report damage."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from storage.activations import check_plain
from storage.archives import read_arrays
from storage.arrays import check_chunks, read_attributes, read_metadata
from storage.checkpoint_checks import check_array, check_layers
from storage.checksums import READ_ERRORS, DamagedError, check_file, one_line, read_document
from storage.coactivation import check_tiles
from storage.layout import PARTIAL, Check, Kind, kind_of, remedy


class Finding(NamedTuple):
    """A file that was checked."""

    path: Path
    kind: Kind
    has_checksum: bool
    """False if an earlier version wrote it without a checksum; it was only found to be readable."""
    problem: str | None
    """What is wrong with it; None if it matches its checksum."""


def examine(root: Path, check_catalog: Callable[[Path], None]) -> Iterator[Finding]:
    """Check every file of a store that a computation may read. Files that are created or removed meanwhile are left
    out.

    `check_catalog` reads a DuckDB file, or raises `DamagedError`.
    """
    for path in sorted(path for path in root.rglob("*") if path.is_file() and PARTIAL not in str(path)):
        kind = kind_of(path.relative_to(root).as_posix())
        if kind is None or kind.check is Check.NONE or kind.name in ("unfinished corpus", "log of the catalog"):
            continue
        try:
            if kind.check is Check.DUCKDB:
                check_catalog(path)
                yield Finding(path, kind, True, None)
            elif (has_checksum := check(path)) is not None:
                yield Finding(path, kind, has_checksum, None)
        except DamagedError as error:
            if error.path.exists() or path.exists():
                yield Finding(error.path, kind, True, error.problem)


def check(path: Path) -> bool | None:
    """Compare a file with its checksum; for a `zarr.json`, also all chunks of the array with theirs.

    Returns whether there are checksums; None for a file that is checked together with another.

    Raises:
        DamagedError: it is damaged.
    """
    if path.name == "zarr.json":
        return _check_zarr(path.parent)
    if path.suffix == ".npz":
        read_arrays(path)
        return True
    reader = _READERS.get(path.suffix)
    if reader is None:
        return None
    has_checksum = check_file(path)
    try:
        reader(path)
    except DamagedError:
        raise
    except (SafetensorError, *READ_ERRORS) as error:
        raise DamagedError(path, f"not readable ({one_line(error)})") from None
    return has_checksum


def check_whole(path: Path) -> None:
    """Compare a file, or everything in a folder, with its checksums.

    Raises:
        DamagedError: something is damaged.
    """
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            check(file)


def _check_zarr(folder: Path) -> bool:
    document, has_checksum = read_metadata(folder), check_file(folder / "zarr.json")
    attributes = read_attributes(folder)
    if document.get("node_type") != "array":
        if "crc32" in attributes:
            check_plain(folder)
        elif "n_layers" in attributes and (folder / "receipt.json").is_file():
            check_layers(folder)
    elif "crc32" in _attributes_above(folder):
        pass  # its values are checked with the block's
    elif (folder.parent / "tiles").is_dir():
        has_checksum &= check_tiles(folder)
    elif "sha256" in attributes:
        has_checksum &= check_array(folder)
    else:
        has_checksum &= check_chunks(folder)
    return has_checksum


def _attributes_above(folder: Path) -> dict[str, object]:
    above = folder.parent
    return read_attributes(above) if (above / "zarr.json").is_file() else {}


def _read_parquet(path: Path) -> None:
    if not check_file(path):
        with pq.ParquetFile(path) as file:
            for _ in file.iter_batches():
                pass


def _read_safetensors(path: Path) -> None:
    with safe_open(path, "numpy") as file:
        list(file.keys())


_READERS: dict[str, Callable[[Path], object]] = {
    ".json": read_document,
    ".parquet": _read_parquet,
    ".safetensors": _read_safetensors,
}


def advice(finding: Finding) -> str:
    """What to do about a damaged file that no repair removes, and what a repair of the others leads to."""
    return finding.kind.again if finding.kind.is_repaired else remedy(finding.path)
