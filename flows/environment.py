"""Supply what a process's environment may lack, before Prefect and the libraries are imported.

It imports almost nothing if nothing is lacking, because Ctrl-C prints a traceback until `flows.start` has set its
signal handlers.
"""

import os

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def loopback_without_proxy() -> None:
    """Exclude this machine from proxies ($HTTP_PROXY, $ALL_PROXY): a proxy would look for Prefect's server on its own
    machine."""
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = ",".join(dict.fromkeys([*(host.strip() for host in given.split(",") if host.strip()), *LOOPBACK]))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = hosts


def writable_caches() -> None:
    """If the home folder cannot be written (a container with an arbitrary user), use a temporary folder for the
    libraries' caches, which is removed with the process. Neither a store nor the Hub's cache is in it."""
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
    """Whether a file can be created there; permissions alone do not show read-only and special file systems."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    name = f"{folder}/.circuit-insights-{os.urandom(8).hex()}"
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError:
        return False
    os.unlink(name)  # noqa: PTH108
    return True
