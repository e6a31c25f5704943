"""Lock a store for one run; if it is a mirror of a bucket, keep the bucket up to date meanwhile.

A plain folder is locked by a kernel lock, a mirror by that and the bucket's lease. The output of the run is pushed
every half minute and after each stage; a run that cannot push any more ends.
"""

import hashlib
import json
import os
import re
import socket
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

from storage.bucket.lease import Lease, LeaseLostError
from storage.bucket.mirror import (
    CATALOG,
    KEY_DIGITS,
    MANIFEST,
    PATIENCE_S,
    TRANSFERS,
    VERSION,
    Entry,
    Files,
    Mirror,
    Stamp,
    with_retries,
)
from storage.bucket.objects import ConflictError
from storage.catalog.published import newest, published_path
from storage.layout import FOLDERS, MIRROR
from storage.store import Store, held, is_held, whole_file

PUSH_EVERY_S = 30.0
"""Seconds between pushes of finished files while a stage is running."""

SNAPSHOTS = 5
"""How often the folder is listed for one push, if files are removed during the listing."""

_OURS = re.compile(rf"(({'|'.join(FOLDERS)})/.+|{re.escape(CATALOG)})\.[0-9a-f]{{{KEY_DIGITS}}}")
"""Keys of files of a store. Other objects of a bucket are never touched."""

_SESSION: ContextVar["_Session | None"] = ContextVar("session", default=None)
"""The run of this process that has locked a mirror."""


def refresh(store: Store, *folders: str) -> None:
    """Update the catalog of a mirror and folders such as `corpora/<corpus_id>`, which are needed from now on.

    A plain folder is not changed. While a run has locked the mirror, and is therefore ahead of the bucket, only missing
    files of the folders are fetched.

    Raises:
        ValueError: the bucket cannot be reached.
    """
    session = _SESSION.get()
    if session is not None and session.mirror.store == store:
        session.want(folders)
        return
    mirror = Mirror.of(store)
    if mirror is None:
        return
    within = tuple(f"{folder}/" for folder in folders)
    with mirror.locked():
        mirror.want(folders)
        if not is_held(store):
            with_retries(lambda: mirror.pull(lambda path: path == CATALOG or path.startswith(within)))
        elif within:
            with_retries(lambda: mirror.fetch_missing(within))


def refresh_all(store: Store) -> None:
    """Fetch everything that a run needs at its start."""
    mirror = Mirror.of(store)
    if mirror is not None:
        with mirror.locked():
            if not is_held(store):
                with_retries(lambda: mirror.pull(mirror.is_wanted))


def is_in_use(store: Store) -> bool:
    """Whether a run has locked a store, here or on another host; for a bucket this may take a minute."""
    mirror = Mirror.of(store)
    return is_held(store) or (mirror is not None and _lease(mirror, "nobody").is_in_use())


def files_there(store: Store) -> dict[str, int]:
    """Sizes of all files in a mirror's bucket, by their paths in the store; empty for a plain folder."""
    mirror = Mirror.of(store)
    return {} if mirror is None else {path: entry.n_bytes for path, entry in mirror.read_manifest().items()}


@contextmanager
def hold(
    store: Store, purpose: str, *, everything: bool = True, notify: Callable[[str], None] = lambda _: None
) -> Iterator[None]:
    """Lock a store for one run, here and, if it is a mirror, in its bucket, to which the run's output is pushed.

    `everything`: fetch all that the run may reuse at its start; otherwise only the catalog. `notify` gets a sentence if
    there is a wait.

    Raises:
        StoreInUseError: another run holds it; the message says which.
        ValueError: the bucket cannot be used, or was taken over by another run.
    """
    mirror = Mirror.of(store)
    if mirror is None:
        with held(store, purpose):
            yield
        return
    with ExitStack() as stack:
        with mirror.locked():  # otherwise files that a reader is fetching would be swept
            stack.enter_context(held(store, purpose))
        session = _Session(mirror, purpose)
        session.lease.take(notify)
        stack.callback(session.close)
        session.begin(everything)
        token = _SESSION.set(session)
        stack.callback(_SESSION.reset, token)
        try:
            yield
        except Exception:
            if not session.is_broken:
                with suppress(Exception):  # only the first error is reported
                    session.push(quiet=False)  # other tasks of the stage may still be writing
            raise
        session.finish()


def push_rest(store: Store) -> None:
    """Push what an earlier run could not push."""
    mirror = Mirror.of(store)
    if mirror is not None and mirror.unpushed.exists():
        with hold(store, "push"):
            pass


def push_stage() -> None:
    """Push what is finished, if a mirror is locked; nothing may be writing."""
    session = _SESSION.get()
    if session is not None:
        session.push_with_retries()


def check_held() -> None:
    """Raise the error that ends a run: the mirror was taken over, or its bucket has been unreachable for long."""
    session = _SESSION.get()
    if session is not None:
        session.check()


def forget(folder: Path) -> None:
    """Also remove a folder of the store from the bucket, even if it is not here."""
    session = _SESSION.get()
    if session is not None:
        session.forgotten.add(folder.relative_to(session.mirror.store.root).as_posix() + "/")


def _lease(mirror: Mirror, holder: str) -> Lease:
    return Lease(mirror.objects, holder, f"{mirror.name} {socket.gethostname()}")


class _Session:
    """A run's lock on a mirror's bucket."""

    def __init__(self, mirror: Mirror, purpose: str) -> None:
        self.mirror = mirror
        since = datetime.now(UTC).isoformat(timespec="seconds")
        holder = f"'{purpose}', process {os.getpid()} on {socket.gethostname()}, since {since}"
        self.lease = _lease(mirror, holder)
        self.seen: set[str] = set()
        """Files that existed here at some time of the run: those that are gone were removed by the run."""
        self.forgotten: set[str] = set()
        self.left_over: set[str] = set()
        """Keys that no manifest names, left by pushes that were killed."""
        self._pushing = threading.RLock()
        self._stop = threading.Event()
        self._failing_since: float | None = None
        self._failure: Exception | None = None

    def begin(self, everything: bool) -> None:
        """Fetch the store, and push from now on."""
        mirror = self.mirror
        with mirror.locked():
            mirror.want(())
            with_retries(lambda: mirror.pull(mirror.is_wanted if everything else CATALOG.__eq__))
        mirror.unpushed.touch()
        self.seen = mirror.snapshot(None)
        named = {entry.key(path) for path, entry in mirror.manifest.items()}
        self.left_over = set(filter(_OURS.fullmatch, mirror.objects.listed())) - named
        threading.Thread(target=self._go_on, name="push", daemon=True).start()

    def want(self, folders: Sequence[str]) -> None:
        """Fetch folders that turn out to be needed."""
        new = [folder for folder in folders if folder not in self.mirror.wanted]
        if new:
            with self._pushing:
                self.mirror.want(new)
                within = tuple(f"{folder}/" for folder in new)
                with_retries(lambda: self.mirror.pull(lambda path: path.startswith(within)))

    @property
    def is_broken(self) -> bool:
        return self.lease.lost is not None or self._failure is not None

    def check(self) -> None:
        """Raise the error that ends the run."""
        if self.lease.lost is not None:
            raise self.lease.lost
        since, failure = self._failing_since, self._failure
        if failure is not None and since is not None and time.monotonic() - since > sum(PATIENCE_S):
            raise failure

    def push_with_retries(self) -> None:
        """Push everything, when nothing is being written any more."""
        try:
            with_retries(lambda: self.push(quiet=True))
        except Exception as error:
            self._failure = error
            raise

    def finish(self) -> None:
        """Push the rest, and remove leftovers of earlier runs."""
        self._stop.set()
        self.push_with_retries()
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
                continue  # files come and go; the next push will have them
            except Exception as error:
                self._failing_since = self._failing_since or time.monotonic()
                self._failure = error
                if isinstance(error, LeaseLostError):
                    return

    def push(self, quiet: bool) -> None:
        """Upload what is new, then write the manifest. `quiet`: nothing is being written, so all files are finished.

        Raises:
            FileNotFoundError: files were removed during every listing.
        """
        with self._pushing:
            self.lease.ensure()
            for _ in range(SNAPSHOTS):
                with suppress(FileNotFoundError):
                    self._write_manifest(self._upload(quiet))
                    self._failing_since = self._failure = None
                    return
            raise FileNotFoundError(f"{self.mirror.store.root}: files were removed while they were pushed")

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
                # Unchanged since it equalled the bucket's file: its entry in the manifest stays.
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
            except ConflictError:
                found = mirror.objects.get(MANIFEST)
                if found is None or found.data != data:  # not our own earlier request
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
    """A stable copy of the published catalog, even if another is published meanwhile; the newest if nothing is being
    written."""
    path = newest(store.catalog) if quiet and store.catalog.is_file() else published_path(store.catalog)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        yield None
        return
    with file:
        yield file


def _now_ns(folder: Path) -> int:
    """The time by the clock of the file system: a file with an earlier time was written before."""
    time.sleep(0.02)  # file systems have a coarse clock
    with whole_file(folder / "clock") as partial:
        partial.touch()
    return (folder / "clock").stat().st_ctime_ns
