"""A store at a URL: objects are its durable home, and what works with it works in a local folder, a mirror of them.

A file `parts/x.parquet` is the object `parts/x.parquet.<its SHA-256>`: objects are never written over. Which of them
are the store is said by `manifest.json` alone, written last and by compare-and-swap, so that a push is there as a whole
or not at all, wherever it is killed. What a manifest no longer names is removed.

The folder knows that it is a mirror, so whoever is given its path need not know:

    .mirror/remote.json     the URL, a name for this folder, and the checkpoints and corpora that are wanted here
    .mirror/synced.json     size, time and SHA-256 of files that are, or were when last seen, as they are there
    .mirror/unpushed        there while something may be here that is not there
"""

import fcntl
import hashlib
import json
import os
import re
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from storage.lease import Lease, LeaseLostError
from storage.objects import Objects, OutrunError, RefusedError, RemoteError, checked_url
from storage.published import newest, published_path
from storage.store import FOLDERS, MIRROR, PARTIAL, UNFINISHED, Store, held, is_held, read_json, whole_file, write_json

CACHE = "CIRCUIT_INSIGHTS_CACHE"
"""Environment variable with the folder that holds the mirrors."""

MANIFEST = "manifest.json"
VERSION = 1
"""Of the manifest; bump when an earlier Circuit Insights would read it wrongly."""

CATALOG = "catalog.duckdb"

PUSH_EVERY_S = 30.0
"""How often what is finished is pushed while a stage goes on."""

TRANSFERS = 16
"""Files that travel at once."""

PATIENCE_S = (5.0, 20.0, 60.0)
"""Waits between tries of a push or pull that failed, each of which retried its requests."""

SNAPSHOTS = 5
"""How often the folder is looked through for one push, if files go while it is."""

KEY_DIGITS = 16
"""Of a file's SHA-256 in its object's key."""

_OURS = re.compile(rf"(({'|'.join(FOLDERS)})/.+|{re.escape(CATALOG)})\.[0-9a-f]{{{KEY_DIGITS}}}")
"""Keys of files. Whatever else is in a bucket is left alone."""

_SESSION: ContextVar["_Session | None"] = ContextVar("session", default=None)
"""The run of this process that holds a mirror."""


class Entry(NamedTuple):
    """A file of the store, as the manifest has it."""

    n_bytes: int
    sha256: str

    def key(self, path: str) -> str:
        return f"{path}.{self.sha256[:KEY_DIGITS]}"


class Stamp(NamedTuple):
    """A file as it was when its hash was taken, and that hash."""

    n_bytes: int
    mtime_ns: int
    sha256: str


Files = dict[str, Entry]


def place(store: str | Path) -> Path:
    """The folder of a store that is given as one, or the local one of a URL, made if it is missing.

    Raises:
        ValueError: a URL that is none of ours.
    """
    if "://" not in str(store):
        return Path(store)
    url = checked_url(str(store))
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    name = "-".join(filter(None, (urlsplit(url).netloc, *urlsplit(url).path.split("/"))))
    digest = hashlib.sha256(f"{endpoint} {url}".encode()).hexdigest()
    root = _cache() / "stores" / f"{name[:80]}-{digest[:8]}"
    remote = root / MIRROR / "remote.json"
    if not remote.exists():
        try:
            write_json(remote, {"url": url, "id": uuid.uuid4().hex, "wanted": []})
        except OSError as error:
            raise ValueError(f"{CACHE}: {root} cannot be written ({error.strerror}); name another folder") from None
    return root


def _cache() -> Path:
    if given := os.environ.get(CACHE):
        return Path(given).absolute()
    usual = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / usual) / "circuit-insights"


def name_of(store: Store) -> str:
    """Where a store is: its folder, or its URL."""
    remote = store.root / MIRROR / "remote.json"
    return str(read_json(remote)["url"]) if remote.is_file() else str(store.root)


def refresh(store: Store, *folders: str) -> None:
    """Bring the catalog of a mirror up to date, and folders such as `corpora/<corpus_id>`, wanted from now on.

    Nothing is done to a plain folder, nor while a run holds the mirror, which is then ahead of the bucket.

    Raises:
        ValueError: the bucket cannot be reached.
    """
    session = _SESSION.get()
    if session is not None and session.mirror.store == store:
        session.want(folders)
        return
    mirror = _Mirror.of(store)
    if mirror is None:
        return
    with mirror.locked():
        mirror.want(folders)
        if not is_held(store):
            within = tuple(f"{folder}/" for folder in folders)
            _patiently(lambda: mirror.pull(lambda path: path == CATALOG or path.startswith(within)))


def refresh_all(store: Store) -> None:
    """Bring everything up to date that a run begins with."""
    mirror = _Mirror.of(store)
    if mirror is not None:
        with mirror.locked():
            if not is_held(store):
                _patiently(lambda: mirror.pull(mirror.is_wanted))


def files_there(store: Store) -> dict[str, int]:
    """Sizes of all files that a mirror's bucket holds, by their paths in the store; none for a plain folder."""
    mirror = _Mirror.of(store)
    return {} if mirror is None else {path: entry.n_bytes for path, entry in mirror.read_manifest().items()}


@contextmanager
def hold(
    store: Store, purpose: str, *, everything: bool = True, told: Callable[[str], None] = lambda _: None
) -> Iterator[None]:
    """Hold a store for one run, here and, if it is a mirror, in its bucket, which then gets what the run leaves.

    `everything`: a run begins with everything that it may find done; otherwise with the catalog. `told` is given a
    sentence where one has to wait.

    Raises:
        StoreInUseError: another run holds it; the message says which.
        ValueError: the bucket cannot be used, or was taken over by another run.
    """
    mirror = _Mirror.of(store)
    if mirror is None:
        with held(store, purpose):
            yield
        return
    with ExitStack() as stack:
        with mirror.locked():  # or what a reader is fetching would be swept
            stack.enter_context(held(store, purpose))
        session = _Session(mirror, purpose)
        session.lease.take(told)
        stack.callback(session.close)
        session.begin(everything)
        token = _SESSION.set(session)
        stack.callback(_SESSION.reset, token)
        try:
            yield
        except Exception:
            if not session.is_broken:
                with suppress(Exception):  # the first error is the one to hear of
                    session.push(quiet=False)  # other tasks of the stage may still be writing
            raise
        session.finish()


def push_rest(store: Store) -> None:
    """Push what an earlier run could not."""
    mirror = _Mirror.of(store)
    if mirror is not None and mirror.unpushed.exists():
        with hold(store, "push"):
            pass


def push_stage() -> None:
    """Push what is finished, if a mirror is held; nothing may be writing."""
    session = _SESSION.get()
    if session is not None:
        session.push_patiently()


def check_held() -> None:
    """Raise what ends a run that holds a mirror: it was taken over, or its bucket is out of reach for long."""
    session = _SESSION.get()
    if session is not None:
        session.check()


def forget(folder: Path) -> None:
    """A folder of the store is removed: from the bucket too, though it may not be here."""
    session = _SESSION.get()
    if session is not None:
        session.forgotten.add(folder.relative_to(session.mirror.store.root).as_posix() + "/")


def _patiently(work: Callable[[], Any]) -> None:
    """Try several times what may fail for a while."""
    for wait_s in PATIENCE_S:
        try:
            work()
            return
        except RefusedError:
            raise
        except RemoteError:
            time.sleep(wait_s)
    work()


class _Mirror:
    """A local folder and the objects that it is a mirror of."""

    def __init__(self, store: Store, url: str, name: str, wanted: list[str]) -> None:
        self.store, self.url, self.name, self.wanted = store, url, name, set(wanted)
        self.objects = Objects(url)
        self.manifest: Files = {}
        self.manifest_etag: str | None = None
        self.synced: dict[str, Stamp] = {}

    @classmethod
    def of(cls, store: Store) -> "_Mirror | None":
        path = store.root / MIRROR / "remote.json"
        if not path.is_file():
            return None
        content = read_json(path)
        return cls(store, content["url"], content["id"], content["wanted"])

    @property
    def unpushed(self) -> Path:
        return self.store.root / MIRROR / "unpushed"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else pulls meanwhile."""
        with (self.store.root / MIRROR / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def want(self, folders: Sequence[str]) -> None:
        """Note folders as wanted here, from now on."""
        self.wanted |= set(read_json(self.store.root / MIRROR / "remote.json")["wanted"])
        if not self.wanted.issuperset(folders):
            self.wanted.update(folders)
            content = {"url": self.url, "id": self.name, "wanted": sorted(self.wanted)}
            write_json(self.store.root / MIRROR / "remote.json", content)

    def is_wanted(self, path: str) -> bool:
        """Whether a run wants a file here: all but checkpoints and corpora of others."""
        kind, name, *_ = [*path.split("/"), ""]
        return kind not in ("checkpoints", "corpora") or f"{kind}/{name}" in self.wanted

    def read_manifest(self) -> Files:
        found = self.objects.get(MANIFEST)
        if found is None:
            self.manifest, self.manifest_etag = {}, None
            return self.manifest
        content = found.json()
        files = content.get("files")
        if content.get("version") != VERSION or not isinstance(files, dict):
            raise ValueError(
                f"store: {self.url}/{MANIFEST} has version {content.get('version')}, expected {VERSION}; "
                "update Circuit Insights, or name an empty prefix"
            )
        self.manifest, self.manifest_etag = {path: Entry(*entry) for path, entry in files.items()}, found.etag
        return self.manifest

    def pull(self, is_wanted: Callable[[str], bool]) -> None:
        """Fetch what is wanted and missing or different here; remove what was removed there since it was fetched."""
        self.synced = self._read_synced()
        self.read_manifest()
        if self.manifest_etag is None:
            if self.store.catalog.is_file():
                self.unpushed.touch()
            return
        self._remove_what_went()
        wanted = [path for path in self.manifest if is_wanted(path) and not self._is_here(path)]
        try:
            with ThreadPoolExecutor(TRANSFERS) as pool:
                list(pool.map(self._fetch, [path for path in wanted if path != CATALOG]))
            for path in wanted:
                if path == CATALOG:
                    self._fetch(path)  # last: what it rests on is here
        finally:
            self.write_synced()

    def _is_here(self, path: str) -> bool:
        """Whether a file is here as it is there, or newer."""
        here, entry, known = self.path(path), self.manifest[path], self.synced.get(path)
        if not here.is_file():
            return False
        if known is not None and known.sha256 == entry.sha256:
            return True
        stat = here.stat()
        if path == CATALOG or stat.st_size != entry.n_bytes or _sha256(here) != entry.sha256:
            return False
        self.synced[path] = Stamp(stat.st_size, stat.st_mtime_ns, entry.sha256)
        return True

    def _fetch(self, path: str) -> None:
        here, entry = self.path(path), self.manifest[path]
        with whole_file(here) as partial:
            try:
                sha256 = self.objects.download(entry.key(path), partial)
            except FileNotFoundError:
                # Removed since the manifest was read: the next try reads a newer one.
                raise RemoteError(f"store: {self.url}/{entry.key(path)} is missing") from None
            n_bytes = partial.stat().st_size
            if (n_bytes, sha256) != entry:
                raise RemoteError(
                    f"store: {self.url}/{entry.key(path)} is damaged: {n_bytes} bytes with SHA-256 {sha256[:12]}…, "
                    f"expected {entry.n_bytes} with {entry.sha256[:12]}…"
                )
            if path == CATALOG:  # what was written here and not pushed is made again
                here.with_name(f"{CATALOG}.wal").unlink(missing_ok=True)
                published_path(self.store.catalog).unlink(missing_ok=True)
        stat = here.stat()
        self.synced[path] = Stamp(stat.st_size, stat.st_mtime_ns, sha256)

    def _remove_what_went(self) -> None:
        for path in [path for path in self.synced if path not in self.manifest]:
            here = self.path(path)
            if path != CATALOG and self.is_unchanged(path):
                here.unlink()
                for folder in here.parents:
                    if folder == self.store.root or any(folder.iterdir()):
                        break
                    folder.rmdir()
            del self.synced[path]

    def is_unchanged(self, path: str) -> bool:
        """Whether a file is here as it was when it was last as there."""
        with suppress(FileNotFoundError):
            stat, known = self.path(path).stat(), self.synced.get(path)
            return known is not None and known[:2] == (stat.st_size, stat.st_mtime_ns)
        return False

    def path(self, path: str) -> Path:
        """Where a file of the store is here.

        Raises:
            ValueError: the manifest names a file that is none of a store.
        """
        parts = Path(path).parts
        if ".." in parts or parts[:1] not in ((CATALOG,), *((kind,) for kind in FOLDERS)):
            raise ValueError(f"store: {self.url}/{MANIFEST} names {path}, which is no file of a store")
        return self.store.root / path

    def _read_synced(self) -> dict[str, Stamp]:
        try:
            content = read_json(self.store.root / MIRROR / "synced.json")
            return {path: Stamp(*stamp) for path, stamp in content.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}  # nothing is lost with it but the time to read the files again

    def write_synced(self) -> None:
        write_json(self.store.root / MIRROR / "synced.json", self.synced)

    def snapshot(self, before_ns: int | None) -> set[str]:
        """Files of this folder that the bucket should hold, the catalog aside; those finished before a time of the
        file system's own clock, by which what a file vouches for is older than it.

        Raises:
            FileNotFoundError: something went while it was looked through.
        """
        found = set()
        for kind in FOLDERS:
            for folder, names, files in os.walk(self.store.root / kind):
                names[:] = [name for name in names if not self._is_unfinished(kind, Path(folder), name)]
                for file in files:
                    path = Path(folder) / file
                    if PARTIAL not in file and (before_ns is None or path.stat().st_ctime_ns < before_ns):
                        found.add(path.relative_to(self.store.root).as_posix())
        return found

    def _is_unfinished(self, kind: str, folder: Path, name: str) -> bool:
        if PARTIAL in name or (kind == "corpora" and name.endswith(UNFINISHED)):
            return True
        is_top = folder == self.store.root / kind
        return kind == "transcoders" and is_top and not (folder / name / "config.yaml").is_file()


class _Session:
    """A run's hold on a mirror's bucket."""

    def __init__(self, mirror: _Mirror, purpose: str) -> None:
        self.mirror = mirror
        since = datetime.now(UTC).isoformat(timespec="seconds")
        holder = f"'{purpose}', process {os.getpid()} on {socket.gethostname()}, since {since}"
        self.lease = Lease(mirror.objects, holder, f"{mirror.name} {socket.gethostname()}")
        self.seen: set[str] = set()
        """Files that were here at some time of the run: if they are not any more, the run removed them."""
        self.forgotten: set[str] = set()
        self.left_over: set[str] = set()
        """Keys that no manifest names: of pushes that were killed."""
        self._pushing = threading.RLock()
        self._stop = threading.Event()
        self._failing_since: float | None = None
        self._failure: Exception | None = None

    def begin(self, everything: bool) -> None:
        """Fetch what is there, and push from now on."""
        mirror = self.mirror
        with mirror.locked():
            mirror.want(())
            _patiently(lambda: mirror.pull(mirror.is_wanted if everything else CATALOG.__eq__))
        mirror.unpushed.touch()
        self.seen = mirror.snapshot(None)
        named = {entry.key(path) for path, entry in mirror.manifest.items()}
        self.left_over = set(filter(_OURS.fullmatch, mirror.objects.listed())) - named
        threading.Thread(target=self._go_on, name="push", daemon=True).start()

    def want(self, folders: Sequence[str]) -> None:
        """Fetch folders that turned out to be wanted."""
        new = [folder for folder in folders if folder not in self.mirror.wanted]
        if new:
            with self._pushing:
                self.mirror.want(new)
                within = tuple(f"{folder}/" for folder in new)
                _patiently(lambda: self.mirror.pull(lambda path: path.startswith(within)))

    @property
    def is_broken(self) -> bool:
        return self.lease.lost is not None or self._failure is not None

    def check(self) -> None:
        """Raise what ends the run."""
        if self.lease.lost is not None:
            raise self.lease.lost
        since, failure = self._failing_since, self._failure
        if failure is not None and since is not None and time.monotonic() - since > sum(PATIENCE_S):
            raise failure

    def push_patiently(self) -> None:
        """Push everything, now that nothing is being written."""
        try:
            _patiently(lambda: self.push(quiet=True))
        except Exception as error:
            self._failure = error
            raise

    def finish(self) -> None:
        """Push the rest, and remove what earlier runs left over."""
        self._stop.set()
        self.push_patiently()
        named = {entry.key(path) for path, entry in self.mirror.manifest.items()}
        self.mirror.objects.remove(sorted(self.left_over - named))
        self.mirror.unpushed.unlink(missing_ok=True)

    def close(self) -> None:
        self._stop.set()
        with self._pushing:
            self.lease.release()

    def _go_on(self) -> None:
        while not self._stop.wait(PUSH_EVERY_S):
            try:
                self.push(quiet=False)
            except FileNotFoundError:
                continue  # files come and go; there is a next time
            except Exception as error:
                self._failing_since = self._failing_since or time.monotonic()
                self._failure = error
                if isinstance(error, LeaseLostError):
                    return

    def push(self, quiet: bool) -> None:
        """Upload what is new, then say so. `quiet`: nothing is being written, so all that is here is finished.

        Raises:
            FileNotFoundError: files went all the while.
        """
        with self._pushing:
            self.lease.ensure()
            for _ in range(SNAPSHOTS):
                with suppress(FileNotFoundError):
                    self._write_manifest(self._upload(quiet))
                    self._failing_since = self._failure = None
                    return
            raise FileNotFoundError(f"{self.mirror.store.root}: files went while they were pushed")

    def _upload(self, quiet: bool) -> Files:
        """Upload what is new; returns all files that the store then has."""
        mirror = self.mirror
        with _catalog(mirror.store, quiet) as catalog:
            before_ns = None if quiet else _now_ns(mirror.store.root / MIRROR)
            here = mirror.snapshot(before_ns)
            gone = self.seen - (here if quiet else mirror.snapshot(None))
            self.seen = (self.seen | here) - gone
            files = {
                path: entry
                for path, entry in mirror.manifest.items()
                if path not in gone and not path.startswith(tuple(self.forgotten))
            }
            with ThreadPoolExecutor(TRANSFERS) as pool:
                # Unchanged since it was as there: what the manifest says stands, whatever that is.
                new = [path for path in here if path not in files or not mirror.is_unchanged(path)]
                files |= zip(new, pool.map(self._uploaded, new), strict=True)
            if catalog is not None:
                files[CATALOG] = self._put(CATALOG, catalog)
        return files

    def _uploaded(self, path: str) -> Entry:
        with self.mirror.path(path).open("rb") as file:
            stat = os.fstat(file.fileno())
            entry = self._put(path, file)
        self.mirror.synced[path] = Stamp(stat.st_size, stat.st_mtime_ns, entry.sha256)
        return entry

    def _put(self, path: str, file: BufferedReader) -> Entry:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        entry = Entry(file.tell(), sha256)
        key = entry.key(path)
        if self.mirror.manifest.get(path) != entry and key not in self.left_over:
            self.lease.ensure()
            file.seek(0)
            self.mirror.objects.upload(key, file, entry.n_bytes)
        return entry

    def _write_manifest(self, files: Files) -> None:
        mirror = self.mirror
        before = {entry.key(path) for path, entry in mirror.manifest.items()}
        if files != mirror.manifest:
            self.lease.ensure()
            data = json.dumps({"version": VERSION, "push": uuid.uuid4().hex, "files": files}, sort_keys=True).encode()
            try:
                mirror.manifest_etag = mirror.objects.swap(MANIFEST, data, mirror.manifest_etag)
            except OutrunError:
                found = mirror.objects.get(MANIFEST)
                if found is None or found.data != data:  # else: we had not heard that an earlier request succeeded
                    self.lease.lost = LeaseLostError(
                        f"store: {mirror.url} was written by another run meanwhile; run the same command again to go on"
                    )
                    raise self.lease.lost from None
                mirror.manifest_etag = found.etag
            mirror.manifest = files
            mirror.objects.remove(sorted(before - {entry.key(path) for path, entry in files.items()}))
        if CATALOG in files and (mirror.store.catalog).is_file():
            stat = mirror.store.catalog.stat()
            mirror.synced[CATALOG] = Stamp(stat.st_size, stat.st_mtime_ns, files[CATALOG].sha256)
        for path in [path for path in mirror.synced if path not in files]:
            del mirror.synced[path]
        mirror.write_synced()


@contextmanager
def _catalog(store: Store, quiet: bool) -> Iterator[BufferedReader | None]:
    """The published catalog, whoever publishes another meanwhile; the newest if nothing is being written."""
    path = newest(store.catalog) if quiet and store.catalog.is_file() else published_path(store.catalog)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        yield None
        return
    with file:
        yield file


def _now_ns(folder: Path) -> int:
    """The time by the clock of the file system: what has an earlier one was written before."""
    time.sleep(0.02)  # file systems count in steps
    with whole_file(folder / "clock") as partial:
        partial.touch()
    return (folder / "clock").stat().st_ctime_ns


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
