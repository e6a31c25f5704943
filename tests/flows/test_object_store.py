"""A store in a bucket: runs killed, resumed elsewhere and refused end with the catalog of an undisturbed run."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from typer.testing import CliRunner

from configs.load import load_config
from flows.cli import app
from flows.describe_checkpoint import describe_checkpoint
from storage.bucket import lease, mirror, objects, working_copy
from storage.bucket.lease import Lease
from storage.bucket.mirror import local_root
from storage.bucket.objects import Objects, RemoteError
from storage.store import Store
from tests.conftest import ROOT, cli_environment, files_with, planted_overrides
from tests.flows.contents import contents
from tests.object_server import SECRET, Trouble, before

pytestmark = pytest.mark.whole

CONFIG = "configs/demo.yaml"
STAGES = "[weightlens, activations, circuitlens]"
PATIENCE_S = 240


@pytest.fixture(scope="module")
def on_disk(
    tmp_path_factory: pytest.TempPathFactory, cli: Callable[..., subprocess.CompletedProcess[str]]
) -> tuple[list[str], dict]:
    """An undisturbed run in a folder: its overrides and its catalog's contents."""
    folder = tmp_path_factory.mktemp("planted")
    overrides = planted_overrides(folder, STAGES)
    result = cli("run", CONFIG, *overrides)
    assert result.returncode == 0, result.stderr
    return overrides, contents(folder / "store" / "catalog.duckdb")


@pytest.fixture
def started(prefect_home: Path, prefect_api: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command line in a process of its own, with the environment of this moment."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        environment = cli_environment(prefect_home, prefect_api)
        command = [sys.executable, "-m", "flows.cli", *arguments]
        pipe = subprocess.PIPE
        running.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True))
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def catalog(url: str) -> dict:
    return contents(Store(local_root(url)).catalog)


def test_killed_in_the_middle_it_resumes_on_another_machine(
    on_disk: tuple[list[str], dict],
    bucket: str,
    s3_endpoint: str,
    started: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prefect_home: Path,
) -> None:
    overrides, expected = on_disk
    with before(s3_endpoint, lambda *_: None) as (endpoint, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        remote, kills = Objects(bucket), 0
        for n_pushes in (1, 2):
            process, pushed = started("run", CONFIG, *overrides, f"store={bucket}"), set()
            give_up = time.monotonic() + PATIENCE_S
            while len(pushed) < n_pushes and process.poll() is None and time.monotonic() < give_up:
                found = remote.get(mirror.MANIFEST)
                pushed |= {found.data} if found else set()
                time.sleep(0.05)
            process.kill()
            kills += process.wait() == -9
            shutil.rmtree(tmp_path / "cache")
            remote.remove([lease.KEY])  # as if a minute had passed
        assert kills > 0
        process = started("run", CONFIG, *overrides, f"store={bucket}")
        output = "".join(process.communicate(timeout=PATIENCE_S))
        assert process.returncode == 0, output
        assert bucket in output
        assert catalog(bucket) == expected
        asked.clear()
        process = started("run", CONFIG, *overrides, f"store={bucket}")
        output = "".join(process.communicate(timeout=PATIENCE_S))
        assert "Nothing to do" in output
        assert bucket in output
        assert {method for method, _ in asked} == {"GET"}
        shutil.rmtree(tmp_path / "cache")
        result = CliRunner().invoke(app, ["sql", "SELECT count(*) AS n FROM checkpoints", "--store", bucket])
        assert result.exit_code == 0, result.output
        assert not (Store(local_root(bucket)).root / "parts").exists()
        assert catalog(bucket) == expected
        for key in remote.listed():
            found = remote.get(key)
            assert found is not None
            assert SECRET.encode() not in found.data
    assert files_with(SECRET, tmp_path, prefect_home) == []


def test_what_reads_a_store_fetches_what_it_needs(
    on_disk: tuple[list[str], dict], bucket: str, tmp_path: Path, prefect_api: str
) -> None:
    overrides, _ = on_disk
    config = load_config(ROOT / CONFIG, [*overrides, f"store={bucket}"])
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        checkpoint_id = describe_checkpoint(config)

    def invoke(*arguments: object) -> str:
        shutil.rmtree(tmp_path / "cache")
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        return result.output

    assert checkpoint_id in invoke("show", 1, 2, "--store", bucket)
    assert "Mechanisms" in invoke("show", 1, 2, "--store", bucket)
    graph = tmp_path / "list.json"
    invoke("attribute", "a b c", "--output", graph, "--store", bucket)
    assert json.loads(graph.read_text())["nodes"]
    assert (tmp_path / "cache") in Store(local_root(bucket)).root.parents
    assert len(invoke("export", tmp_path / "tables", "--format", "parquet", "--store", bucket).splitlines()) > 10
    assert bucket in invoke("doctor", "--store", bucket)
    assert "Nothing to remove" in invoke("vacuum", "--store", bucket)
    told = invoke("plan", CONFIG, *overrides, "--store", bucket)
    assert f"Store: {bucket}, local copy in {local_root(bucket)}" in told.replace("\n", "")
    todo = [line.split("│")[2].strip() for line in told.splitlines() if line.count("│") > 5]
    assert set(todo) <= {"0", ""}, told


def test_a_store_that_another_run_holds_is_refused(
    on_disk: tuple[list[str], dict],
    bucket: str,
    started: Callable[..., subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 1.0)
    holder = Lease(Objects(bucket), "'run elsewhere', process 7 on there", "another folder")
    holder.take(lambda _: None)
    process = started("run", CONFIG, *on_disk[0], f"store={bucket}")
    _, message = process.communicate(timeout=PATIENCE_S)
    holder.release()
    assert process.returncode == 2
    assert f"{bucket} is in use by 'run elsewhere', process 7 on there" in message.replace("\n", "")
    assert "Traceback" not in message
    assert working_copy.files_there(Store(local_root(bucket))) == {}


def refuse_parts(on: list[bool]) -> Trouble:
    return lambda method, path: 503 if on[0] and method == "PUT" and "/parts/" in path else None


def test_a_server_that_refuses_fails_the_run_and_the_next_one_goes_on(
    on_disk: tuple[list[str], dict],
    bucket: str,
    s3_endpoint: str,
    tmp_path: Path,
    prefect_api: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    overrides, expected = on_disk
    for module in (mirror, working_copy):
        monkeypatch.setattr(module, "PATIENCE_S", (0.1, 0.2))
    monkeypatch.setitem(objects.RETRIES, "max_retries", 1)
    on = [True]
    with before(s3_endpoint, refuse_parts(on)) as (endpoint, _), temporary_settings({PREFECT_API_URL: prefect_api}):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        config = load_config(ROOT / CONFIG, [*overrides, f"store={bucket}"])
        with pytest.raises(RemoteError, match=r"does not answer as expected.*503"):
            describe_checkpoint(config)
        assert not any(path.startswith("parts") for path in working_copy.files_there(Store(local_root(bucket))))
        on[0] = False
        describe_checkpoint(config)
        shutil.rmtree(tmp_path / "cache")
        working_copy.refresh(Store(local_root(bucket)))
        assert catalog(bucket) == expected


@pytest.mark.parametrize(
    ("store", "expected"),
    [
        ("ftp://host/x", "unknown scheme ftp://; expected s3://BUCKET/PREFIX, or a folder"),
        (f"s3://user:{SECRET}@bucket", "credentials"),
        ("s3://nowhere-at-all/x", "there is no bucket nowhere-at-all"),
    ],
)
@pytest.mark.parametrize("command", ["run", "plan", "doctor", "sql"])
def test_a_place_that_cannot_be_used(
    on_disk: tuple[list[str], dict], bucket: str, store: str, expected: str, command: str
) -> None:
    arguments = ["sql", "SELECT 1"] if command == "sql" else [command, CONFIG, *on_disk[0]]
    result = CliRunner().invoke(app, [*arguments, "--store", store])
    assert result.exit_code == 2, result.output
    assert expected in result.output.replace("\n", "")
    assert "Traceback" not in result.output
    assert SECRET not in result.output


def test_the_usual_cache_folder(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(mirror.CACHE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform != "darwin":
        assert (tmp_path / "xdg" / "circuit-insights") in local_root(bucket).parents
    assert local_root(bucket) != local_root(f"{bucket}-other")
    assert local_root(f"{bucket}/") == local_root(bucket)
    assert os.fspath(local_root("folder")) == "folder"
