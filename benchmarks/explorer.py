"""How fast the explorer's pages are: one client page by page, then many clients at once.

    python -m benchmarks.large_catalog FOLDER
    python -m benchmarks.explorer FOLDER [--clients 20] [--seconds 60]

Prints one JSON object a line: milliseconds until the whole page is there (30 pages of each kind, drawn with a seed),
the peak of the server's resident memory, and what many clients got; any answer but 200 counts as refused.
"""

import argparse
import http.client
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

PAGES = 30
"""Of each kind."""

WORDS = ("the", "bee", "list", "value", "return", "cat", "house+of", "year*")


class Answer(NamedTuple):
    """What came back, and after how many milliseconds."""

    status: int
    body: bytes
    ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("store", type=Path)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "circuit_insights", "serve", "--store", str(arguments.store), "--port", "0"]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().strip().rsplit(":", 1)[1].strip("/"))
            overview = _get(port, "/")
            print(json.dumps({"first_answer_s": round(time.perf_counter() - began, 2), "status": overview.status}))
            pages = _pages(port)
            _one_client(port, pages)
            print(json.dumps({"clients": 1, "peak_mb": _peak_mb(server.pid)}))
            _many_clients(port, list(pages.values()), arguments.clients, arguments.seconds)
            print(json.dumps({"clients": arguments.clients, "peak_mb": _peak_mb(server.pid)}))
        finally:
            server.terminate()


def _pages(port: int) -> dict[str, Callable[[], str]]:
    """For each kind of page, a maker of addresses."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", "/")
    checkpoint = connection.getresponse().getheader("location") or "/"
    shown = json.loads(_get(port, f"/api{checkpoint}").body)["checkpoint"]
    place, layers, width = f"/c/{shown['checkpoint_id']}", shown["n_layers"], shown["d_transcoder"]
    chance = random.Random(0)

    def feature() -> str:
        return f"{chance.randrange(layers)}/{chance.randrange(width)}"

    return {
        "overview": lambda: place,
        "feature": lambda: f"{place}/feature/{feature()}",
        "features": lambda: f"{place}/features?layer={chance.randrange(layers)}&page={chance.randrange(1, 20)}",
        "features sorted": lambda: f"{place}/features?sort=density&order=down&page={chance.randrange(1, 200)}",
        "token": lambda: f"{place}/token/{chance.randrange(shown['d_vocab'])}",
        "head": lambda: f"{place}/head/{chance.randrange(layers)}/{chance.randrange(12)}",
        "compare": lambda: f"{place}/compare",
        "pair": lambda: f"{place}/pair?a={feature()}&b={feature()}",
        "search": lambda: f"{place}/search?q={chance.choice(WORDS)}",
    }


def _one_client(port: int, pages: dict[str, Callable[[], str]]) -> None:
    while b"being made" in _get(port, pages["search"]()).body:
        time.sleep(1)
    for name, address in pages.items():
        answers = [_get(port, address()) for _ in range(PAGES)]
        assert all(answer.status == 200 for answer in answers), name
        print(json.dumps({"page": name, **_quantiles([answer.ms for answer in answers])}))


def _many_clients(port: int, pages: list[Callable[[], str]], n_clients: int, seconds: float) -> None:
    answers, stop = [], time.perf_counter() + seconds

    def ask(chance: random.Random) -> None:
        while time.perf_counter() < stop:
            answers.append(_get(port, chance.choice(pages)()))

    clients = [threading.Thread(target=ask, args=(random.Random(at),)) for at in range(n_clients)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    refused = sum(answer.status != 200 for answer in answers)
    figures = _quantiles([answer.ms for answer in answers])
    print(json.dumps({"clients": n_clients, "answers": len(answers), "refused": refused, **figures}))


def _get(port: int, address: str) -> Answer:
    """A page, redirections followed."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", address)
    response = connection.getresponse()
    body, further = response.read(), response.getheader("location")
    connection.close()
    if 300 <= response.status < 400 and further:
        return _get(port, further)
    return Answer(response.status, body, 1000 * (time.perf_counter() - began))


def _quantiles(ms: list[float]) -> dict[str, int]:
    ordered = sorted(ms)
    return {"p50_ms": round(ordered[len(ordered) // 2]), "p95_ms": round(ordered[int(0.95 * len(ordered))])}


def _peak_mb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) // 1000 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
