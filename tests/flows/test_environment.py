"""A home that cannot be written, proxies, a terminal that is not UTF-8: nothing of it stands in the way of a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer

from flows.environment import LOOPBACK, loopback_without_proxy, writable_caches
from tests.conftest import ROOT, cli_environment

PROXIES = {name: "http://127.0.0.1:9" for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy")}
CACHES = ("PREFECT_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR")


def test_a_server_of_this_machine_is_not_sought_through_a_proxy(httpserver: HTTPServer, tmp_path: Path) -> None:
    httpserver.expect_request("/api/health").respond_with_json(True)
    url = f"http://127.0.0.1:{httpserver.port}/api"
    environment = {name: value for name, value in cli_environment(tmp_path, url).items() if name.lower() != "no_proxy"}
    command = [sys.executable, "-c", "from flows.running.prefect_api import check_prefect_answers as ask; ask()"]
    done = subprocess.run(
        command, cwd=ROOT, env={**environment, **PROXIES}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert httpserver.log


@pytest.mark.parametrize(
    ("given", "kept"), [({}, ()), ({"NO_PROXY": "a.b, c"}, ("a.b", "c")), ({"no_proxy": "*"}, "*")]
)
def test_what_needs_no_proxy_already_stays(
    given: dict[str, str], kept: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    loopback_without_proxy()
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == ",".join([*kept, *LOOPBACK])


@pytest.mark.parametrize("home", ["/proc/1", "/nonexistent"])
def test_without_a_home_caches_are_in_a_folder_that_goes_with_the_process(home: str) -> None:
    program = f"import flows, os; from pathlib import Path; print(*(os.environ[name] for name in {CACHES}))"
    environment = {name: value for name, value in os.environ.items() if name not in CACHES} | {"HOME": home}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    folders = [Path(folder) for folder in done.stdout.split()]
    assert len({folder.parent for folder in folders}) == 1
    assert not folders[0].parent.exists()


def test_a_home_that_can_be_written_and_folders_of_ones_own_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CACHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    writable_caches()
    assert not any(name in os.environ for name in CACHES)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("HOME", "/nonexistent")
    for name in CACHES:
        monkeypatch.setenv(name, "mine")
    writable_caches()
    assert {os.environ[name] for name in CACHES} == {"mine"}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_is_not_utf_8_gets_what_it_can_show(encoding: str) -> None:
    program = "import flows.start as s; s.show_what_can_be_shown(); print('naïve → 名')"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert done.stdout.decode(encoding).startswith("na")
    assert b"\\u2192 \\u540d" in done.stdout
