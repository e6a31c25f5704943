"""An S3 server on this machine, and one before it that is slow or refuses."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from moto.server import ThreadedMotoServer

Trouble = Callable[[str, str], int | None]
"""Of a request's method and path: the status with which it is refused, or None."""

SECRET = "not-for-anyone"


@contextmanager
def s3_server() -> Iterator[str]:
    """The server's endpoint."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


def make_bucket(endpoint: str, name: str) -> None:
    with urlopen(Request(f"{endpoint}/{name}", method="PUT")):
        pass


def environment(endpoint: str, cache: Path) -> dict[str, str]:
    """What a process needs to use the server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "CIRCUIT_INSIGHTS_CACHE": str(cache),
        "NO_PROXY": f"127.0.0.1,{os.environ.get('NO_PROXY', '')}",
    }


@contextmanager
def before(
    endpoint: str, trouble: Trouble, without: tuple[str, ...] = ()
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A server that hands requests on unless `trouble` refuses them: its endpoint, and what it was asked.

    `without` are headers that it does not hand on.
    """
    asked: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_request(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append((self.command, self.path))
            status = trouble(self.command, self.path)
            if status is not None:
                self.answer(status, {}, b"<Error><Code>SlowDown</Code></Error>")
                return
            place = urlsplit(endpoint)
            assert place.hostname is not None
            connection = HTTPConnection(place.hostname, place.port, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in without}
            connection.request(self.command, self.path, body, headers)
            found = connection.getresponse()
            self.answer(found.status, dict(found.getheaders()), found.read())
            connection.close()

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_request  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
