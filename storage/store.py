"""A store folder: the paths in it, files written completely or not at all, and a lock for one run at a time."""

import errno
import fcntl
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from storage.checksums import DamagedError, json_text, read_document, stamp, write_through
from storage.layout import FILES, FOLDERS, MIRROR, PARTIAL

_LEFT_OVER = re.compile(r".+\.[0-9a-f]{8,32}\.partial(\.wal)?")
"""Names at the top of a store: its own, those of Zarr, and DuckDB's log of an unfinished catalog."""


class ShardKey(NamedTuple):
    """A range of one layer's features under one recipe. Tasks pass these to each other instead of arrays."""

    recipe: str
    layer: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """`L03 512-1024`, for run names and messages."""
        return f"L{self.layer:02d} {self.start}-{self.stop}"


@dataclass(frozen=True)
class Store:
    """Paths inside a store. `docs/design.md` shows the tree."""

    root: Path

    @property
    def catalog(self) -> Path:
        """The DuckDB file that a run writes."""
        return self.root / "catalog.duckdb"

    def checkpoint(self, checkpoint_id: str) -> Path:
        """The folder of a checkpoint."""
        return self.root / "checkpoints" / checkpoint_id

    def corpus(self, corpus_id: str) -> Path:
        """The folder of a corpus."""
        return self.root / "corpora" / corpus_id

    def activations(self, recipe: str) -> Path:
        """Sparse activations, by blocks of a corpus's rows."""
        return self.root / "activations" / recipe

    def coactivation(self, recipe: str) -> Path:
        """The folder of co-activation matrices."""
        return self.root / "coactivation" / recipe

    def equals(self, ingredients: str) -> Path:
        """Index file: which recipes produced identical output from this hash of inputs."""
        return self.root / "equals" / f"{ingredients}.json"

    def reports(self, recipe: str) -> Path:
        """Tables and plots for people."""
        return self.root / "reports" / recipe

    def trained_transcoders(self, recipe: str) -> Path:
        """The folder of transcoders trained here."""
        return self.root / "transcoders" / recipe

    def part(self, table: str, key: ShardKey) -> Path:
        """The Parquet file with one shard's rows of a catalog table."""
        layer = self.parts(table, key.recipe) / f"layer-{key.layer:02d}"
        return layer / f"features-{key.start}-{key.stop}.parquet"

    def parts(self, table: str, recipe: str) -> Path:
        """The folder of a recipe's parts of a table."""
        return self.root / "parts" / table / recipe


def shards(recipe: str, layer: int, n_features: int, shard_size: int) -> list[ShardKey]:
    """A layer's features divided into shards; the last may be smaller."""
    return [
        ShardKey(recipe, layer, start, min(start + shard_size, n_features))
        for start in range(0, n_features, shard_size)
    ]


def missing_shards(store: Store, keys: Sequence[ShardKey], tables: Sequence[str]) -> list[ShardKey]:
    """Shards without a part of a table."""
    return [key for key in keys if not all(store.part(table, key).exists() for table in tables)]


def open_store(root: Path) -> Store:
    """Open the store at `root`; it is created if missing, accessible to its owner only, since it contains the corpus's
    text.

    The mode of an existing store is not changed, and the files in it follow the umask, so `chmod` opens it permanently.

    Raises:
        ValueError: the place cannot be written.
    """
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        root.mkdir(mode=0o700, exist_ok=True)
        probe = root / f"probe.{uuid.uuid4().hex[:8]}{PARTIAL}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise ValueError(f"store: {root} cannot be written ({error.strerror}); choose another with --store") from None
    return Store(root)


def check_place(root: Path) -> None:
    """Refuse a place that is not a folder, or a folder with other content.

    Raises:
        ValueError: says what is there.
    """
    if not root.exists():
        return
    if not root.is_dir():
        raise ValueError(f"store: {root} is a file; name a folder")
    names = {path.name for path in root.iterdir()}
    if names and not names.intersection((*FOLDERS, *FILES, MIRROR)):
        some = ", ".join(sorted(names)[:5])
        raise ValueError(f"store: {root} has other content ({some}); name a new folder, or the folder of a store")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name and rename it: a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    try:
        yield partial
        write_through(partial)
        partial.replace(path)
        write_through(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name and rename it. If the folder exists already, it is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    partial.mkdir()
    try:
        yield partial
        for written in partial.rglob("*"):
            write_through(written)
        if not path.exists():
            partial.replace(path)
            write_through(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder atomically for readers; what a kill leaves behind is removed later."""
    going = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    with suppress(FileNotFoundError):
        path.replace(going)
        shutil.rmtree(going, ignore_errors=True)


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a small JSON document completely or not at all, with its checksum."""
    with whole_file(path) as partial:
        partial.write_text(json_text(value), encoding="utf-8")
        stamp(partial)


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON document.

    Raises:
        DamagedError: it is missing or damaged.
    """
    return read_document(path)


T = TypeVar("T")


def read_as(path: Path, kind: type[T]) -> T:
    """Read a JSON document as a dataclass or NamedTuple with the same fields and types.

    Raises:
        DamagedError: it is missing, damaged, or has other fields.
    """
    return checked_as(kind, read_document(path), path)


def checked_as(kind: type[T], value: object, path: Path) -> T:
    """The fields read from a file as a value of a type.

    Raises:
        DamagedError: there are other fields, or other types; `path` names the file.
    """
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DamagedError(path, f"not a {kind.__name__} ({where}: {first['msg']})") from None


@lru_cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


class StoreInUseError(ValueError):
    """Another run has locked the store."""


@contextmanager
def held(store: Store, purpose: str) -> Iterator[None]:
    """Lock the store for one run: there is no second writer, and leftovers of killed runs are removed.

    It is a kernel lock, so it ends with the process in any case.

    Raises:
        StoreInUseError: another run has locked it; the message says which.
        ValueError: the store cannot be written.
    """
    path = store.root / "lock"
    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"store: {store.root} cannot be written ({error.strerror})") from None
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "an unknown process"
            raise StoreInUseError(
                f"store: {store.root} is in use by {holder}; wait for it or use another store"
            ) from None
        lock.seek(0)
        lock.truncate()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        lock.write(f"'{purpose}', process {os.getpid()} on {socket.gethostname()}, since {now}\n")
        lock.flush()
        _sweep(store)
        yield


def is_held(store: Store) -> bool:
    """Whether a run has locked the store at this moment."""
    try:
        with (store.root / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _sweep(store: Store) -> None:
    """Remove what killed runs left half-written. The caller must hold the lock."""
    own = [path for name in (*FOLDERS, MIRROR) for path in (store.root / name).rglob(f"*{PARTIAL}*")]
    for path in [*own, *store.root.glob(f"*{PARTIAL}*")]:
        if not _LEFT_OVER.fullmatch(path.name):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
