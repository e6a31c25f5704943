"""Where the texts of a corpus lie: a file, a folder of files, a Hub dataset, or the running Python."""

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
from storage.recipes import fingerprints
from storage.store import Store

PYTHON_DOCS = "python-docs"
"""Names the running Python's own documentation as a text source."""

KINDS = {
    ".txt": ".txt", ".jsonl": ".jsonl", ".ndjson": ".jsonl", ".json": ".jsonl", ".csv": ".csv", ".tsv": ".tsv",
    ".parquet": ".parquet",
}  # fmt: skip
"""Suffixes of the files that texts are read from, and how they are read: a .json file holds JSON lines too."""

_EXPECTED = (
    f"expected {', '.join(KINDS)} (all but the last also with {' or '.join(PACKINGS)}), "
    f"a folder of these, {HUB}… or '{PYTHON_DOCS}'"
)


class TextFile(NamedTuple):
    """A file with texts, here or on the Hub."""

    name: str
    kind: str
    """One of the values of `KINDS`."""
    packing: str
    """One of `PACKINGS`, or empty."""
    open: Callable[[], IO[bytes]]


def pinned(source: str) -> str:
    """A source that will mean the same tomorrow: a Hub dataset at the commit where it stands now, others as they are.

    Raises:
        ValueError: nothing is there, a file is of a kind that is not read, or the Hub does not give the dataset.
    """
    exact = pin(source) if source.startswith(HUB) else source
    if exact != source or not source.startswith(HUB):
        text_files(exact)  # what a full commit names is found out when it is read, so that it needs no network before
    return exact


def source_fingerprint(store: Store, source: str) -> str:
    """What determines the texts of a pinned source.

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
    """The files of a source on this machine, a folder's in the order of their names; none of other sources.

    Raises:
        ValueError: nothing there, or a folder with files that are no texts (hidden ones do not count).
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
        ValueError: nothing there, or a file of a kind that is not read.
    """
    if source.startswith(HUB):
        return [TextFile(name, *_kind(name), partial(open_remote, name)) for name in remote_files(source)]
    return [TextFile(str(path), *_kind(str(path)), partial(path.open, "rb")) for path in local_files(source)]


def _kind(name: str) -> tuple[str, str]:
    """How a file is read, and how it is packed."""
    packing = next((packing for packing in PACKINGS if name.endswith(packing)), "")
    kind = KINDS.get(Path(name.removesuffix(packing)).suffix)
    if kind is None or (packing and kind == ".parquet"):
        raise ValueError(f"corpus: {name} is a '{Path(name).suffix}' file; {_EXPECTED}")
    return kind, packing
