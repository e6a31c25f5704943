"""Sources of a corpus: a file, a folder of files, a Hub dataset, or the running Python."""

import hashlib
import json
import sys
import sysconfig
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from storage.corpora.decompress import PACKINGS
from storage.corpora.hub_datasets import HUB, open_remote, pin, remote_files
from storage.hashing import fingerprints
from storage.store import Store

PYTHON_DOCS = "python-docs"
"""The name of the running Python's own documentation as a source."""

KINDS = {
    ".txt": ".txt", ".jsonl": ".jsonl", ".ndjson": ".jsonl", ".json": ".jsonl", ".csv": ".csv", ".tsv": ".tsv",
    ".parquet": ".parquet",
}  # fmt: skip
"""Suffixes of supported files, and how each is read; a .json file has JSON lines too."""

_EXPECTED = (
    f"expected {', '.join(KINDS)} (all but the last also with {' or '.join(PACKINGS)}), "
    f"a folder of these, {HUB}… or '{PYTHON_DOCS}'"
)


class TextFile(NamedTuple):
    """A file with texts, on this machine or on the Hub."""

    name: str
    kind: str
    """One of the values of `KINDS`."""
    packing: str
    """One of `PACKINGS`, or empty."""
    open: Callable[[], IO[bytes]]


def pinned(source: str) -> str:
    """A source that does not change later: a Hub dataset at its current commit, others as they are.

    Raises:
        ValueError: nothing is there, a file has an unsupported type, or the Hub does not give the dataset.
    """
    exact = pin(source) if source.startswith(HUB) else source
    if exact != source or not source.startswith(HUB):
        text_files(exact)  # a full commit is checked when it is read, so that no network is needed before
    return exact


def source_fingerprint(store: Store, source: str) -> str:
    """What the texts of a pinned source depend on.

    The content hash of a file, or of a folder's files by name; of the interpreter and its library's files for
    `python-docs`; commit and path of a Hub dataset.
    """
    if source == PYTHON_DOCS:
        stdlib = Path(sysconfig.get_path("stdlib"))
        files = sorted(p for p in stdlib.rglob("*.py") if "site-packages" not in p.parts)
        listing = [(str(p.relative_to(stdlib)), p.stat().st_size) for p in files]
        return hashlib.sha256(repr((sys.version, listing)).encode()).hexdigest()
    if source.startswith(HUB):
        return source.removeprefix(HUB)
    hashes = fingerprints(store, local_files(source))
    if Path(source).is_file():
        return hashes[Path(source).name]
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def local_files(source: str) -> list[Path]:
    """The files of a source on this machine, those of a folder in the order of their names; empty for other sources.

    Raises:
        ValueError: nothing is there, or a folder has files of other types (hidden ones do not count).
    """
    path = Path(source)
    if source == PYTHON_DOCS or source.startswith(HUB):
        return []
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"corpus: no file {path} ({_EXPECTED})")
    found = [file for file in path.rglob("*") if file.is_file()]
    files = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if not files:
        raise ValueError(f"corpus: the folder {path} holds no files ({_EXPECTED})")
    return sorted(files, key=lambda file: file.relative_to(path).as_posix())


def text_files(source: str) -> list[TextFile]:
    """The files of a local or Hub source, in the order in which they are read.

    Raises:
        ValueError: nothing is there, or a file has an unsupported type.
    """
    if source.startswith(HUB):
        return [TextFile(name, *_kind(name), partial(open_remote, name)) for name in remote_files(source)]
    return [TextFile(str(path), *_kind(str(path)), partial(path.open, "rb")) for path in local_files(source)]


def _kind(name: str) -> tuple[str, str]:
    """How a file is read, and how it is compressed."""
    packing = next((packing for packing in PACKINGS if name.endswith(packing)), "")
    kind = KINDS.get(Path(name.removesuffix(packing)).suffix)
    if kind is None or (packing and kind == ".parquet"):
        raise ValueError(f"corpus: {name} is a '{Path(name).suffix}' file; {_EXPECTED}")
    return kind, packing
