"""A lease allows one run at a time on a bucket's prefix. It is a small object that its holder renews.

Every change is a compare-and-swap on the object's tag, so of two concurrent ones only one succeeds. Whether a holder is
alive is judged by its renewals only: a lease that did not change while another process watched it for `LEASE_S`, by its
own monotonic clock, is taken over. The clocks of the hosts do not have to agree.
"""

import json
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress

from storage.bucket.objects import ConflictError, Found, Objects, RefusedError, RemoteError
from storage.store import StoreInUseError

KEY = "lease.json"

LEASE_S = 60.0
"""A lease that was not renewed for this long is taken over."""

RENEW_S = 15.0
"""Seconds between renewals."""

POLL_S = 2.0
"""Seconds between checks by a process that waits for the lease."""


class LeaseLostError(ValueError):
    """Another run took over the store."""


class Lease:
    """The right to write below a URL. Thread-safe."""

    def __init__(self, objects: Objects, holder: str, mirror: str) -> None:
        self.objects, self.holder, self.mirror = objects, holder, mirror
        """`mirror` names the local folder: a process that holds the folder's lock knows that its last holder is
        dead."""
        self._id = uuid.uuid4().hex
        self._count = 0
        self._etag: str | None = None
        self._lock = threading.Lock()
        self._renewed_at = 0.0
        self._stop = threading.Event()
        self.lost: LeaseLostError | None = None

    def take(self, notify: Callable[[str], None]) -> None:
        """Take the lease and renew it from now on. `notify` gets a sentence if that takes time.

        Raises:
            StoreInUseError: another run holds it; the message says which.
        """
        found = self._when_free(notify)
        self._etag = None if found is None else found.etag
        try:
            self._swap()
        except ConflictError:
            raise self._in_use(self.objects.get(KEY)) from None
        self._check_server()
        threading.Thread(target=self._go_on, name="lease", daemon=True).start()

    def is_in_use(self) -> bool:
        """Whether a live run holds it; takes up to `LEASE_S` to find out."""
        try:
            self._when_free(lambda _: None)
        except StoreInUseError:
            return True
        return False

    def _check_server(self) -> None:
        """Refuse a server that ignores conditional requests."""
        with suppress(ConflictError):
            self.objects.swap(KEY, _text(holder=None), None)
            raise RefusedError(
                f"store: {self.objects.url}: the server ignores conditions of writes (If-None-Match); "
                "expected one that supports them, since two runs could overwrite each other's work otherwise"
            )

    def ensure(self) -> None:
        """Make sure that the lease is still held, renewing it if the last renewal was long ago.

        Raises:
            LeaseLostError: it is not.
        """
        if self.lost is not None:
            raise self.lost
        if time.monotonic() - self._renewed_at > LEASE_S / 2:
            self.renew()

    def renew(self) -> None:
        """Renew the lease, so that others see that this run is alive.

        Raises:
            LeaseLostError: another run took it over.
        """
        with self._lock:
            if self.lost is not None:
                raise self.lost
            try:
                self._swap()
            except ConflictError:
                found = self.objects.get(KEY)
                if found is None or found.json().get("id") != self._id:
                    self.lost = LeaseLostError(
                        f"store: {self.objects.url} was taken over by {_holder(found)} while this run was cut off; "
                        "nothing more is written there, run the same command again to go on"
                    )
                    raise self.lost from None
                self._etag = found.etag  # ours: an earlier request succeeded whose answer did not arrive

    def release(self) -> None:
        """Release the lease."""
        self._stop.set()
        with self._lock, suppress(RemoteError, ConflictError):
            if self.lost is None:
                self.objects.swap(KEY, _text(holder=None), self._etag)

    def _go_on(self) -> None:
        while not self._stop.wait(RENEW_S):
            with suppress(RemoteError):  # unless somebody else takes it, it is still ours when the server answers again
                try:
                    self.renew()
                except LeaseLostError:
                    return

    def _swap(self) -> None:
        sent = time.monotonic()
        self._count += 1
        text = _text(holder=self.holder, id=self._id, mirror=self.mirror, count=self._count)
        self._etag = self.objects.swap(KEY, text, self._etag)
        self._renewed_at = sent

    def _when_free(self, notify: Callable[[str], None]) -> Found | None:
        """The state of the lease once it may be taken."""
        found = self.objects.get(KEY)
        return found if found is None or self._is_free(found) else self._watched(found, notify)

    def _is_free(self, found: Found) -> bool:
        content = found.json()
        return content.get("holder") is None or content.get("mirror") == self.mirror

    def _watched(self, found: Found, notify: Callable[[str], None]) -> Found | None:
        notify(
            f"{self.objects.url} is held by {_holder(found)}; looking for up to {LEASE_S:.0f} s whether it still runs"
        )
        began = time.monotonic()
        while time.monotonic() - began < LEASE_S:
            time.sleep(POLL_S)
            now = self.objects.get(KEY)
            if now is None or self._is_free(now):
                return now
            if now != found:
                raise self._in_use(now)
        return found

    def _in_use(self, found: Found | None) -> StoreInUseError:
        return StoreInUseError(
            f"store: {self.objects.url} is in use by {_holder(found)}; wait for it or use another store"
        )


def _holder(found: Found | None) -> str:
    return str((found and found.json().get("holder")) or "another run")


def _text(**content: object) -> bytes:
    return json.dumps(content, sort_keys=True).encode()
