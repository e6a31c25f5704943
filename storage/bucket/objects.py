"""Objects below a URL such as s3://bucket/prefix, with errors that say what to change.

obstore reads credentials, endpoint and region from the environment; nothing else does.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotModifiedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import from_url

if TYPE_CHECKING:
    from obstore import PutMode
    from obstore.store import ClientConfig, RetryConfig

SCHEMES = ("s3", "gs", "az")
"""URL schemes that are supported. Only s3 is tested."""

EXPECTED = "expected s3://BUCKET/PREFIX, or a folder"

RETRIES: "RetryConfig" = {"max_retries": 8, "retry_timeout": timedelta(seconds=60)}
"""How often one request is retried, with growing waits: after broken connections, and answers such as 503."""

CONNECT_TIMEOUT, READ_TIMEOUT = "10s", "60s"
"""Seconds to wait for a connection, and between two pieces of an answer, in one attempt."""

PART_BYTES = 5 << 20
"""A large object is uploaded in parts of this size; there may be 10,000 of them."""

NO_HTTP = "its endpoint is http:// without TLS; set AWS_ALLOW_HTTP=true if that is intended"
NO_CREDENTIALS = "no credentials in the environment; expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"

_METADATA = ("169.254.169.254", "169.254.170.2", "/latest/api/token", "/computeMetadata/")
"""Cloud services that give credentials to their machines, asked if the environment has none."""

_NO_PERMISSION = ("403 Forbidden", "401 Unauthorized", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied")


class RemoteError(ValueError):
    """The object store did not do what it was asked; a retry may help."""


class RefusedError(RemoteError):
    """A retry does not help: the bucket, permission or credentials are missing."""


class ConflictError(Exception):
    """The object is not the one that was to be replaced: another process wrote it."""


class Found(NamedTuple):
    """A small object that was read."""

    data: bytes
    etag: str | None

    def json(self) -> dict[str, object]:
        """The object's content as JSON; an empty dict if it was not written by this platform."""
        try:
            return dict(json.loads(self.data))
        except (ValueError, TypeError):
            return {}


def checked_url(text: str) -> str:
    """The normalised URL of a store.

    Raises:
        ValueError: the scheme is unknown, there is no bucket, or the URL has a secret (the message does not repeat it).
    """
    if re.search(r"[@?#]", text) or ":" in urlsplit(text).netloc:
        raise ValueError(
            "store: the URL has a user, password, port or query in it; "
            f"{EXPECTED}, with credentials and endpoint in the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …)"
        )
    parts = urlsplit(text)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"store: {text}: unknown scheme {parts.scheme}://; {EXPECTED}")
    if not parts.netloc:
        raise ValueError(f"store: {text} names no bucket; {EXPECTED}")
    return f"{parts.scheme}://{parts.netloc}/{parts.path.strip('/')}".rstrip("/")


class Objects:
    """The objects below a URL. Thread-safe."""

    def __init__(self, url: str) -> None:
        self.url = checked_url(url)
        allow = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes")
        options: ClientConfig = {"allow_http": allow, "connect_timeout": CONNECT_TIMEOUT, "read_timeout": READ_TIMEOUT}
        with self._told():
            self._store = from_url(self.url, client_options=options, retry_config=RETRIES)

    def get(self, key: str) -> Found | None:
        """Read a small object; None if there is none."""
        with self._told():
            try:
                found = obstore.get(self._store, key)
                return Found(bytes(found.bytes()), found.meta["e_tag"])
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None

    def swap(self, key: str, data: bytes, etag: str | None) -> str | None:
        """Replace the small object with this tag (None: create it); returns the new tag.

        Raises:
            ConflictError: another object is there.
        """
        with self._told():
            try:
                mode: PutMode = "create" if etag is None else {"e_tag": etag}
                return obstore.put(self._store, key, data, mode=mode)["e_tag"]
            except (AlreadyExistsError, PreconditionError, NotModifiedError):
                raise ConflictError(key) from None

    def upload(self, key: str, file: IO[bytes], n_bytes: int) -> None:
        """Write an object completely or not at all. Memory: two parts of `PART_BYTES`, or of the 5,000th part of a
        larger file."""
        with self._told():
            obstore.put(self._store, key, file, chunk_size=max(PART_BYTES, n_bytes // 5000), max_concurrency=2)

    def download(self, key: str, path: Path) -> str:
        """Read an object into a file; returns its SHA-256 in hex.

        Raises:
            FileNotFoundError: there is no such object.
        """
        digest = hashlib.sha256()
        with self._told(), path.open("wb") as file:
            try:
                for piece in obstore.get(self._store, key):
                    digest.update(piece)
                    file.write(piece)
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                raise _MissingError(key) from None
        return digest.hexdigest()

    def listed(self) -> Iterator[str]:
        """All keys, including the prefix."""
        with self._told():
            for page in obstore.list(self._store, chunk_size=1000):
                yield from (found["path"] for found in page)

    def remove(self, keys: Sequence[str]) -> None:
        """Remove some objects."""
        if keys:
            with self._told():
                obstore.delete(self._store, list(keys))

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn errors of the object store into errors that say what to do."""
        try:
            yield
        except _MissingError as error:
            raise FileNotFoundError(str(error)) from None
        except FileNotFoundError:
            bucket = urlsplit(self.url).netloc
            raise RefusedError(f"store: {self.url}: there is no bucket {bucket}; make it, or name another") from None
        except (BaseError, ValueError) as error:
            raise self._explained(error) from None

    def _explained(self, error: Exception) -> RemoteError:
        text = str(error)
        if any(place in text for place in _METADATA):
            return RefusedError(f"store: {self.url}: {NO_CREDENTIALS}")
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or any(c in text for c in _NO_PERMISSION):
            return RefusedError(
                f"store: {self.url}: access denied; expected credentials in the environment (AWS_ACCESS_KEY_ID, …) "
                "that may list, read, write and delete there"
            )
        if "builder error" in text and "http://" in text:
            return RefusedError(f"store: {self.url}: {NO_HTTP}")
        line = re.sub(r"//[^/@\s]*@", "//", text.splitlines()[0])[:300]
        return RemoteError(f"store: {self.url}: the server does not answer as expected ({line})")


class _MissingError(Exception):
    """There is no such object, although the bucket exists."""
