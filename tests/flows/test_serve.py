"""`serve` as a user starts it: in a process of its own, asked over the network."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.conftest import ROOT, cli_environment, listening
from tests.explorer.small_catalog import CHECKPOINT, write_small_catalog


@contextmanager
def served(store: Path, home: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address that the command prints, while it runs."""
    command = [sys.executable, "-m", "flows.cli", "serve", "--store", str(store), "--port", "0", *options]
    process = subprocess.Popen(
        command, cwd=ROOT, env=cli_environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_serve_prints_its_address_and_answers_there(tmp_path: Path) -> None:
    write_small_catalog(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    with served(tmp_path, tmp_path / "home") as (address, process):
        assert listening(process.pid) == {"127.0.0.1"}
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        with urlopen(f"{address}c/{CHECKPOINT}/feature/2/1") as answer:
            assert "the token cat" in answer.read().decode()
    made = ("home", "catalog.search.sqlite")  # the index of words, as the command `search` makes it too
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(made)) == before


def test_serve_says_what_it_exposes_and_asks_for_its_token(tmp_path: Path) -> None:
    write_small_catalog(tmp_path)
    with served(tmp_path, tmp_path / "home", "--host", "0.0.0.0", "--token") as (address, process):
        assert process.stderr is not None
        found = re.fullmatch(r"http://0\.0\.0\.0:(\d+)/\?token=(\S+)", address)
        assert found
        assert listening(process.pid) == {"0.0.0.0"}
        assert re.match(r"Exposed on 0\.0\.0\.0, port \d+, to everyone with the token", process.stderr.readline())
        page = f"http://127.0.0.1:{found[1]}/c/{CHECKPOINT}"
        try:
            status = urlopen(page).status
        except HTTPError as error:
            status = error.code
        assert status == 401
        with urlopen(Request(page, headers={"Authorization": f"Bearer {found[2]}"})) as answer:
            assert answer.status == 200


def test_serve_without_a_catalog_or_a_free_port_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows.cli", "serve", "--store"]
    none = subprocess.run([*command, tmp_path / "none"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert none.returncode == 2
    assert "no catalog at" in none.stderr
    write_small_catalog(tmp_path)
    with served(tmp_path, tmp_path / "home") as (address, _):
        port = address.rsplit(":", 1)[1].strip("/")
        taken = subprocess.run(
            [*command, tmp_path, "--port", port], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
    assert taken.returncode == 2
    assert "choose another port" in taken.stderr
