"""A Hub on this machine: the few requests that downloads are made of, and its misfortunes."""

import hashlib
import json
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
OLDER = "facade" + "0" * 34


class HubServer:
    """Serves folders as repositories, each with the branch `main` at COMMIT. A context: stopped at its end."""

    def __init__(self) -> None:
        self.repos: dict[str, Path] = {}
        self.branches: dict[str, dict[str, str]] = {}
        """Commits of further branches, by name, of a repository."""
        self.gated: set[str] = set()
        """Repositories whose files are refused."""
        self.cuts: dict[str, list[int]] = {}
        """By file name: each download but the last ends after so many bytes."""
        self.requests: list[str] = []
        """Method and path of each request."""
        self.ranges: list[str] = []
        """`name: range` of each request for part of a file."""
        self.tokens: set[str | None] = set()
        """What requests for files were authorised by."""
        self.connections: list[socket.socket] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """From now on connections are refused."""
        self._server.shutdown()
        self._server.server_close()
        for connection in self.connections:
            with suppress(OSError):  # already closed
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> "HubServer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.stop()

    def downloads(self) -> list[str]:
        """Names of the files of which content was sent."""
        sent = [path for path in self.requests if path.startswith("GET /") and "/resolve/" in path]
        return [path.split("/resolve/")[1].split("/", 1)[1] for path in sent]


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            hub.connections.append(self.connection)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            if path.startswith("/api/models/"):
                self._api(path.removeprefix("/api/models/"))
            elif "/resolve/" in path:
                repo, rest = path[1:].split("/resolve/")
                self._file(repo, *rest.split("/", 1))
            else:
                self._refuse(404, "EntryNotFound")

        def _api(self, path: str) -> None:
            if path.endswith("/refs"):
                return self._references(path.removesuffix("/refs"))
            repo, kind, revision = (*path.rsplit("/", 2),) if path.count("/") > 2 else (path, "revision", "main")
            if repo not in hub.repos:
                self._refuse(401, "RepoNotFound")
            elif revision not in ("main", COMMIT):
                self._refuse(404, "RevisionNotFound")
            elif kind == "tree":
                self._send_json([_entry(hub.repos[repo], name) for name in _names(hub.repos[repo])])
            else:
                entries = [_entry(hub.repos[repo], name) for name in _names(hub.repos[repo])]
                siblings = [
                    {"rfilename": e["path"], "size": e["size"], "blobId": e["oid"], "lfs": e["lfs"]} for e in entries
                ]
                self._send_json({"id": repo, "sha": COMMIT, "siblings": siblings, "tags": [], "downloads": 0})
            return None

        def _references(self, repo: str) -> None:
            if repo not in hub.repos:
                return self._refuse(401, "RepoNotFound")
            commits = {"main": COMMIT, **hub.branches.get(repo, {})}
            refs = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": to} for name, to in commits.items()]
            return self._send_json({"branches": refs, "tags": [], "converts": []})

        def _file(self, repo: str, revision: str, name: str) -> None:
            hub.tokens.add(self.headers.get("Authorization"))
            if repo not in hub.repos:
                return self._refuse(401, "RepoNotFound")
            if repo in hub.gated:
                return self._refuse(403 if self.headers.get("Authorization") else 401, "GatedRepo")
            if revision != COMMIT or not (hub.repos[repo] / name).is_file():
                return self._refuse(404, "EntryNotFound")
            content = (hub.repos[repo] / name).read_bytes()
            start, stop = 0, len(content)
            wanted = self.headers.get("Range")
            if wanted:
                first, last = wanted.removeprefix("bytes=").split("-")
                start, stop = int(first), min(int(last or stop - 1) + 1, stop)
                hub.ranges.append(f"{name}: {wanted}")
            self.send_response(206 if wanted else 200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{_entry(hub.repos[repo], name)["lfs"]["oid"]}"')
            self.send_header("Accept-Ranges", "bytes")
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
            self.send_header("Content-Length", str(stop - start))
            self.end_headers()
            if self.command == "GET":
                cuts = hub.cuts.get(name)
                self.wfile.write(content[start : start + cuts[0] if cuts else stop])
                if cuts:
                    cuts.pop(0)
                    self.close_connection = True
            return None

        def _send_json(self, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _entry(folder: Path, name: str) -> dict[str, Any]:
    content = (folder / name).read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    large = {"oid": sha256, "sha256": sha256, "size": len(content), "pointerSize": 130}
    return {
        "type": "file",
        "path": name,
        "size": len(content),
        "oid": hashlib.sha1(content).hexdigest(),
        "lfs": large,
    }
