"""A Prefect server for one command, which can be started while the command is still importing its libraries.

Imports only the standard library.
"""

import atexit
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

PATIENCE_S = 180.0
"""Seconds that a server started here may take: on a busy machine half a minute."""

_WATCHDOG = "import os, signal, sys\nif not sys.stdin.read(): os.kill(int(sys.argv[1]), signal.SIGTERM)"
"""A program that ends another process when the process that holds its standard input dies."""


class Server(NamedTuple):
    """A server process that will answer at `url`, and the process that ends it when this one dies."""

    process: subprocess.Popen[bytes]
    watchdog: subprocess.Popen[bytes]
    url: str

    def wait_until_it_answers(self) -> None:
        """Wait until it answers.

        Raises:
            RuntimeError: it ended, or took longer than `PATIENCE_S`.
        """
        give_up = time.monotonic() + PATIENCE_S
        while True:
            with suppress(OSError), urlopen(f"{self.url}/health", timeout=10):
                return
            if self.process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(
                    f"Prefect's server does not answer at {self.url}; what does `prefect server start` say?"
                )
            time.sleep(0.1)

    def end(self) -> None:
        """End the server and the process that watches over it."""
        self.process.terminate()
        self.process.wait()
        self.watchdog.communicate(b"done")


_early: list[Server] = []


def start_early() -> None:
    """Start the server that this command will need, in parallel with importing the libraries."""
    if "PREFECT_API_URL" not in os.environ and not _early:
        _early.append(start())


def end_early() -> None:
    """End a server that was started early and is not needed."""
    while _early:
        _early.pop().end()


def started() -> Server:
    """The server that was started early, or one that is started now."""
    return _early.pop() if _early else start()


def start() -> Server:
    """Start the server that Prefect would start itself; its class for that takes three seconds to import."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spec = find_spec("prefect")
    assert spec is not None
    assert spec.origin is not None
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(Path(spec.origin).parents[1])]
    command += ["--factory", "prefect.server.api.server:create_app", "--lifespan", "on"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    ours = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    process = subprocess.Popen(command, env={**os.environ, **ours})
    atexit.register(process.terminate)
    watching = [sys.executable, "-c", _WATCHDOG, str(process.pid)]
    watchdog = subprocess.Popen(watching, stdin=subprocess.PIPE, start_new_session=True)
    return Server(process, watchdog, f"http://127.0.0.1:{port}/api")
