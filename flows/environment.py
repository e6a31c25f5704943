"""What the environment of a process may lack, made up for before Prefect and the libraries are imported.

Imports next to nothing where nothing is lacking: until `flows.start` has its handlers, Ctrl-C is a traceback.
"""

import os

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
    names = {"PREFECT_HOME": ".prefect", "MPLCONFIGDIR": "matplotlib", "NUMBA_CACHE_DIR": "numba"}
    missing = {name: folder for name, folder in names.items() if name not in os.environ}
    if not missing or _is_writable(os.path.expanduser("~")):  # noqa: PTH111
        return
    import atexit
    import shutil
    import tempfile

    place = tempfile.mkdtemp(prefix="circuit-insights-")
    process = os.getpid()
    atexit.register(lambda: os.getpid() == process and shutil.rmtree(place, ignore_errors=True))
    for name, folder in missing.items():
        os.environ[name] = f"{place}/{folder}"


def _is_writable(folder: str) -> bool:
    """Whether a file can be made there: permissions alone do not tell of read-only and odd file systems."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    name = f"{folder}/.circuit-insights-{os.urandom(8).hex()}"
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError:
        return False
    os.unlink(name)  # noqa: PTH108
    return True
