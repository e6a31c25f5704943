"""A store at a URL: objects in a bucket are its permanent home, and programs work with a local copy of them, a mirror.

A file `parts/x.parquet` is the object `parts/x.parquet.<its SHA-256>`; objects are never overwritten. `manifest.json`
lists the objects that are the store. It is written last, by compare-and-swap, so that a push takes effect completely or
not at all, wherever it is killed. Objects that a manifest no longer lists are removed.

The folder itself records that it is a mirror, so that code that is given its path need not know:

    .mirror/remote.json     the URL, a name for this folder, and the checkpoints and corpora that are needed here
    .mirror/synced.json     size, time and SHA-256 of files that are, or were when last compared, equal to the bucket's
    .mirror/unpushed        exists while the folder may have something that the bucket has not
    .mirror/lock            held by the process that fetches
    .mirror/clock           written to learn the time of the file system

Runs lock a mirror and push their output: `storage.bucket.working_copy`.
"""

import fcntl
import hashlib
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from storage.bucket.objects import Objects, RefusedError, RemoteError, checked_url
from storage.catalog.published import published_path
from storage.layout import FOLDERS, MIRROR, PARTIAL, UNFINISHED
from storage.store import Store, read_as, read_json, whole_file, write_json

CACHE = "CIRCUIT_INSIGHTS_CACHE"
"""Environment variable with the folder that holds the mirrors."""

MANIFEST = "manifest.json"

VERSION = 1
"""Version of the manifest; raise it when an earlier Circuit Insights would misread it."""

CATALOG = "catalog.duckdb"

TRANSFERS = 16
"""Files transferred at the same time."""

PATIENCE_S = (5.0, 20.0, 60.0)
"""Seconds between attempts of a push or pull that failed; each attempt also retries its requests."""

KEY_DIGITS = 16
"""Number of digits of a file's SHA-256 at the end of its object's key."""


class Entry(NamedTuple):
    """A file of the store in the manifest."""

    n_bytes: int
    sha256: str

    def key(self, path: str) -> str:
        """The key of the object that holds the file whose path in the store is `path`."""
        return f"{path}.{self.sha256[:KEY_DIGITS]}"


class Stamp(NamedTuple):
    """The size and time of a file when its hash was computed, and that hash."""

    n_bytes: int
    mtime_ns: int
    sha256: str


Files = dict[str, Entry]


def local_root(store: str | Path) -> Path:
    """The folder of a store that is given as one, or the local folder of a URL, created if it is missing.

    Raises:
        ValueError: the URL has an unsupported form.
    """
    if "://" not in str(store):
        return Path(store)
    url = checked_url(str(store))
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    name = "-".join(filter(None, (urlsplit(url).netloc, *urlsplit(url).path.split("/"))))
    digest = hashlib.sha256(f"{endpoint} {url}".encode()).hexdigest()
    root = cache_folder() / "stores" / f"{name[:80]}-{digest[:8]}"
    remote = root / MIRROR / "remote.json"
    if not remote.exists():
        try:
            write_json(remote, {"url": url, "id": uuid.uuid4().hex, "wanted": []})
        except OSError as error:
            raise ValueError(f"{CACHE}: {root} cannot be written ({error.strerror}); name another folder") from None
    return root


def cache_folder() -> Path:
    """The user's folder for files that can be made again."""
    if given := os.environ.get(CACHE):
        return Path(given).absolute()
    usual = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / usual) / "circuit-insights"


def name_of(store: Store) -> str:
    """The place of a store: its folder, or its URL."""
    remote = store.root / MIRROR / "remote.json"
    return str(read_json(remote)["url"]) if remote.is_file() else str(store.root)


def with_retries(work: Callable[[], object]) -> None:
    """Call a function several times if it fails with a temporary error."""
    for wait_s in PATIENCE_S:
        try:
            work()
            return
        except RefusedError:
            raise
        except RemoteError:
            time.sleep(wait_s)
    work()


class Remote(NamedTuple):
    """The content of `.mirror/remote.json`."""

    url: str
    id: str
    """The mirror's own name, by which a lease tells it from other mirrors."""
    wanted: list[str]
    """Folders of checkpoints and corpora that runs here need."""


class Mirror:
    """A local folder and the objects that it mirrors."""

    def __init__(self, store: Store, url: str, name: str, wanted: list[str]) -> None:
        self.store, self.url, self.name, self.wanted = store, url, name, set(wanted)
        self.objects = Objects(url)
        self.manifest: Files = {}
        self.manifest_etag: str | None = None
        self.synced: dict[str, Stamp] = {}

    @classmethod
    def of(cls, store: Store) -> "Mirror | None":
        """The mirror in a store's folder; None for a plain folder."""
        path = store.root / MIRROR / "remote.json"
        if not path.is_file():
            return None
        remote = read_as(path, Remote)
        return cls(store, remote.url, remote.id, remote.wanted)

    @property
    def unpushed(self) -> Path:
        """A file that exists while the folder may have something that the bucket has not."""
        return self.store.root / MIRROR / "unpushed"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the mirror's lock, so that no other process pulls at the same time."""
        with (self.store.root / MIRROR / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def want(self, folders: Sequence[str]) -> None:
        """Record folders as needed here, from now on."""
        self.wanted |= set(read_as(self.store.root / MIRROR / "remote.json", Remote).wanted)
        if not self.wanted.issuperset(folders):
            self.wanted.update(folders)
            remote = Remote(self.url, self.name, sorted(self.wanted))
            write_json(self.store.root / MIRROR / "remote.json", remote._asdict())

    def is_wanted(self, path: str) -> bool:
        """Whether a run needs a file here: all but checkpoints and corpora that no run here has used."""
        kind, name, *_ = [*path.split("/"), ""]
        return kind not in ("checkpoints", "corpora") or f"{kind}/{name}" in self.wanted

    def read_manifest(self) -> Files:
        """Read the manifest from the bucket; it is empty if there is none."""
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
        """Fetch what is needed and missing or different here; remove what was removed from the bucket since it was
        fetched."""
        self.synced = self._read_synced()
        self.read_manifest()
        if self.manifest_etag is None:
            if self.store.catalog.is_file():
                self.unpushed.touch()
            return
        self._remove_what_went()
        try:
            self._fetch_all([path for path in self.manifest if is_wanted(path) and not self._is_here(path)])
        finally:
            self.write_synced()

    def fetch_missing(self, within: tuple[str, ...]) -> None:
        """Fetch missing files below some folders while a run holds the mirror; all other files are the run's
        business."""
        self.read_manifest()
        self._fetch_all([path for path in self.manifest if path.startswith(within) and not self.path(path).is_file()])

    def _fetch_all(self, wanted: Sequence[str]) -> None:
        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(self._fetch, [path for path in wanted if path != CATALOG]))
        if CATALOG in wanted:
            self._fetch(CATALOG)  # last, since it refers to the other files

    def _is_here(self, path: str) -> bool:
        """Whether the local file equals the bucket's, or is newer."""
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
            if path == CATALOG:  # files written here and not pushed are computed again
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
        """Whether the local file has not changed since it last equalled the bucket's."""
        with suppress(FileNotFoundError):
            stat, known = self.path(path).stat(), self.synced.get(path)
            return known is not None and known[:2] == (stat.st_size, stat.st_mtime_ns)
        return False

    def path(self, path: str) -> Path:
        """The local path of a file of the store.

        Raises:
            ValueError: the manifest names a file that a store cannot have.
        """
        parts = Path(path).parts
        if ".." in parts or parts[:1] not in ((CATALOG,), *((kind,) for kind in FOLDERS)):
            raise ValueError(f"store: {self.url}/{MANIFEST} names {path}, which cannot be a file of a store")
        return self.store.root / path

    def _read_synced(self) -> dict[str, Stamp]:
        try:
            return read_as(self.store.root / MIRROR / "synced.json", dict[str, Stamp])
        except (OSError, ValueError):
            return {}  # if it is lost, the files are only read again

    def write_synced(self) -> None:
        """Write the hashes of files that equal the bucket's."""
        write_json(self.store.root / MIRROR / "synced.json", self.synced)

    def snapshot(self, before_ns: int | None) -> set[str]:
        """Files of this folder that the bucket should have, except for the catalog. Only files finished before a time
        of the file system's own clock are listed, so that everything a listed file refers to is listed too.

        Raises:
            FileNotFoundError: a file was removed during the listing.
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
