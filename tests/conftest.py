"""Shared fixtures. Prefect gets a home of its own, so that tests neither see nor leave anything outside."""

import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests.planted import WORDS, write_planted

ROOT = Path(__file__).parents[1]
ORACLES = "CIRCUIT_INSIGHTS_ORACLES"
"""Environment variable with the Python that runs other people's implementations; see `make oracles`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests against other implementations, and those on a GPU, are left out where these are not at hand."""
    if ORACLES not in os.environ:
        for item in items:
            if item.get_closest_marker("oracle"):
                item.add_marker(pytest.mark.skip(reason=f"{ORACLES} names no Python; see `make oracles`"))
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu and not _sees_a_gpu():
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason="PyTorch sees no GPU; see `make gpu`"))


def _sees_a_gpu() -> bool:
    import torch  # seconds to import, and only here wanted

    return torch.cuda.is_available()


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Files that tests write need not survive a power cut; waiting until they would takes them milliseconds each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="session")
def prefect_api(prefect_home: Path) -> Iterator[str]:
    """A Prefect server for the whole session: a command that finds one need not start its own."""
    from prefect.server.api.server import SubprocessASGIServer  # a second to import, and only here wanted

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(prefect_home))
        server = SubprocessASGIServer(unused_port())  # without a port it would be the one that flows in here stop
        server.start(timeout=120)
    yield server.api_url
    server.stop()


@pytest.fixture(scope="module")
def prefect_here(prefect_api: str) -> Iterator[None]:
    """Flows in this process go to the server of the session, and their logs with them while it runs."""
    from prefect.logging.handlers import APILogHandler
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield
        APILogHandler().flush()


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path, str], None]]:
    """Makes a folder a file system of a given size; called again, of another."""
    mounted: set[Path] = set()

    def sized(place: Path, size: str) -> None:
        how = f"remount,size={size}" if place in mounted else f"size={size}"
        place.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", place], capture_output=True, check=False)
        if done.returncode != 0:
            pytest.skip("mounting a small file system needs root")
        mounted.add(place)

    yield sized
    for place in mounted:
        subprocess.run(["umount", place], check=True)


def listening(pid: int) -> set[str]:
    """Addresses at which a process and those that it started listen."""
    parent = psutil.Process(pid)
    sockets = [found for one in (parent, *parent.children(recursive=True)) for found in one.net_connections("inet")]
    return {found.laddr.ip for found in sockets if found.status == psutil.CONN_LISTEN}


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def cli(prefect_home: Path, prefect_api: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own."""
    environment = cli_environment(prefect_home, prefect_api)

    def run(*arguments: object, timeout: float = 300, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
        return subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            **{"env": environment, **options},
        )  # pyright: ignore

    return run


def cli_environment(prefect_home: Path, prefect_api: str | None = None) -> dict[str, str]:
    """Of the command line. Without a server at hand a run starts one, which takes it as long as all the rest."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    server = {"PREFECT_API_URL": prefect_api} if prefect_api else {}
    return {**environment, "PREFECT_HOME": str(prefect_home), "COLUMNS": "200", "HF_HUB_OFFLINE": "1", **server}


def files_with(secret: str, *folders: Path) -> list[Path]:
    """Files below some folders that hold a text anywhere: catalogs, databases, logs, parts."""
    every = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [path for path in every if secret.encode() in path.read_bytes()]


@pytest.fixture(scope="session")
def planted_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the planted model's checkpoint and a catalog, for reading."""
    from tests.planted_store import planted_store

    return planted_store(tmp_path_factory.mktemp("planted")).store.root


@pytest.fixture
def planted(tmp_path: Path) -> list[str]:
    """Overrides that point configs/demo.yaml at the planted model and a new store."""
    return planted_overrides(tmp_path)


def planted_overrides(folder: Path, stages: str = "[weightlens]", words: Sequence[str] = WORDS) -> list[str]:
    """Overrides likewise; `stages` are those that `run` does after ingestion, `words` the vocabulary."""
    model, transcoders, text = write_planted(folder, words=words)
    return [
        f"stages={stages}",
        "name=planted",
        f"store={folder / 'store'}",
        f"model.path={model}",
        f"transcoder.path={transcoders}",
        f"corpus.source={text}",
        "corpus.n_pos=32",
        "shard_size=5",
        "weightlens.z_tokens=3",
        "weightlens.z_features=3",
    ]


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    from tests.object_server import s3_server  # a second to import, and only here wanted

    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new place in an object store, which this process and those that it starts may use."""
    from tests.object_server import environment, make_bucket

    name = f"bucket-{uuid.uuid4().hex[:8]}"
    make_bucket(s3_endpoint, name)
    for variable, value in environment(s3_endpoint, tmp_path / "cache").items():
        monkeypatch.setenv(variable, value)
    return f"s3://{name}/some/where"
