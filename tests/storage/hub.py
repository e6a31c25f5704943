"""A Hub on this machine: what its client asks for, answered from a folder, in ranges."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" * 6 + "beef"
DATASET = "someone/texts"


@dataclass
class Hub:
    """Serves one dataset with one commit, to which `main` and `refs/convert/parquet` point."""

    folder: Path
    gated: bool = False
    requests: list[str] = field(default_factory=list)
    n_bytes: int = 0
    url: str = ""

    def listing(self, below: str) -> list[dict[str, Any]]:
        """What the tree of the repository says of a folder, recursively."""
        found = []
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if name.startswith(below):
                kind = "directory" if path.is_dir() else "file"
                found.append({"type": kind, "path": name, "size": path.stat().st_size, "oid": "0" * 40})
        return found


@contextmanager
def local_hub(hub: Hub) -> Iterator[Hub]:
    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            if info := re.fullmatch(rf"/api/datasets/{DATASET}(?:/revision/(.+))?", path):
                if info[1] in (None, "main", "refs/convert/parquet", COMMIT):
                    return self.json({"id": DATASET, "sha": COMMIT})
                return self.error("RevisionNotFound")
            if hub.gated and DATASET in path:
                return self.error("GatedRepo", 403)
            if tree := re.fullmatch(rf"/api/datasets/{DATASET}/tree/{COMMIT}(?:/(.*))?", path):
                below = f"{tree[1]}/" if tree[1] else ""
                found = hub.listing(below)
                if "recursive=true" not in self.path.lower():
                    found = [entry for entry in found if "/" not in entry["path"].removeprefix(below)]
                return self.json(found) if found else self.error("EntryNotFound")
            if file := re.fullmatch(rf"/datasets/{DATASET}/resolve/{COMMIT}/(.+)", path):
                return self.range((hub.folder / file[1]).read_bytes())
            return self.error("RepoNotFound", 401)

        def range(self, data: bytes) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            part = data[int(asked[1]) : int(asked[2]) + 1] if asked else data
            hub.n_bytes += len(part)
            self.answer(206 if asked else 200, part, {})

        def json(self, value: object) -> None:
            self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def error(self, code: str, status: int = 404) -> None:
            self.answer(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
