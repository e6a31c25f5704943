"""What the environment of a process may lack, made up for before Prefect and the libraries are imported.

Imports nothing but the standard library.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def loopback_without_proxy() -> None:
    """Have this machine never sought through a proxy ($HTTP_PROXY, $ALL_PROXY): that would look for Prefect's server on
    a machine of its own."""
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = ",".join(dict.fromkeys([*(host.strip() for host in given.split(",") if host.strip()), *LOOPBACK]))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = hosts


def writable_caches() -> None:
    """Where the home cannot be written (a container that runs as some user without one), put what libraries keep there
    into a folder that ends with the process. Nothing of a store or of the Hub's cache is among it."""
    home = Path(os.environ.get("HOME") or "~").expanduser()
    names = {"PREFECT_HOME": ".prefect", "MPLCONFIGDIR": "matplotlib", "NUMBA_CACHE_DIR": "numba"}
    missing = {name: folder for name, folder in names.items() if name not in os.environ}
    if not missing or _is_writable(home):
        return
    place = tempfile.mkdtemp(prefix="circuit-insights-")
    process = os.getpid()
    atexit.register(lambda: os.getpid() == process and shutil.rmtree(place, ignore_errors=True))
    for name, folder in missing.items():
        os.environ[name] = str(Path(place) / folder)


def _is_writable(folder: Path) -> bool:
    """Whether a file can be made there: permissions alone do not tell of read-only and odd file systems."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    try:
        handle, name = tempfile.mkstemp(prefix=".circuit-insights-", dir=folder)
    except OSError:
        return False
    os.close(handle)
    Path(name).unlink()
    return True
