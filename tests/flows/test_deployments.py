"""Server, worker and deployments as `make` starts them; a checkpoint dropped where they look is described."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from configs.load import load_config
from storage.catalog.published import open_published
from tests.conftest import ROOT, cli_environment, planted_overrides, unused_port

PATIENCE_S = 400


class Prefect:
    """A server with a worker, and its API."""

    def __init__(self, folder: Path) -> None:
        self.port, self.folder = unused_port(), folder
        self.environment = cli_environment(folder / "prefect")
        self.processes: list[subprocess.Popen[bytes]] = []

    def make(self, target: str) -> list[str]:
        """`make TARGET` with the Python that runs this."""
        return ["make", f"BIN={Path(sys.executable).parent}", "READY=", f"PORT={self.port}", target]

    def start(self, target: str) -> None:
        with (self.folder / f"{target}.log").open("wb") as log:
            process = subprocess.Popen(
                self.make(target), cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.append(process)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = Request(f"http://127.0.0.1:{self.port}/api/{path}", data, headers, method=method)
        for _ in range(20):
            try:
                with urlopen(request, timeout=30) as answer:
                    content = answer.read()
                return json.loads(content) if content else None
            except HTTPError as error:
                if error.code != 503:  # the server's database is busy: ask again, as its own client does
                    raise
                time.sleep(1)
        raise TimeoutError(f"{method} {path}: the server stays busy")

    def stop(self) -> None:
        for process in reversed(self.processes):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    prefect = Prefect(tmp_path_factory.mktemp("deployed"))
    try:
        prefect.start("server")
        wait_for(lambda: prefect.call("GET", "health"), "the server")
        prefect.start("worker")
        command = {"cwd": ROOT, "env": prefect.environment, "capture_output": True, "text": True}
        deployed = subprocess.run(prefect.make("deploy"), timeout=PATIENCE_S, **command)
        assert deployed.returncode == 0, deployed.stdout + deployed.stderr
        yield prefect
    finally:
        prefect.stop()


def wait_for(what: Callable[[], Any], name: str) -> Any:
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        with suppress(OSError, ValueError):
            found = what()
            if found:
                return found
        time.sleep(0.5)
    raise AssertionError(f"{name}: not within {PATIENCE_S} s")


@pytest.mark.slow
def test_parameters_are_checked_and_stores_are_written_by_one_run_at_a_time(prefect: Prefect) -> None:
    deployments = prefect.call("POST", "deployments/filter", {})
    names = {f"{one['entrypoint'].split(':')[1]}/{one['name']}" for one in deployments}
    assert len(names) == 13
    of_demo = prefect.call("GET", "deployments/name/describe-checkpoint/demo")
    schema = of_demo["parameter_openapi_schema"]
    assert schema["definitions"]["RunConfig"]["additionalProperties"] is False
    assert "unit" not in schema  # only what the configuration holds
    changed = {"config": {**of_demo["parameters"]["config"], "weightlens": {"z_tokens": -1}}}
    with pytest.raises(OSError, match=r"409|422"):
        prefect.call("POST", f"deployments/{of_demo['id']}/create_flow_run", {"parameters": changed})
    queue = prefect.call("GET", "work_pools/circuit-insights/queues/store")
    assert queue["concurrency_limit"] == 1


@pytest.mark.slow
def test_a_checkpoint_dropped_where_they_look_is_described_and_compared(prefect: Prefect, tmp_path: Path) -> None:
    overrides = [*planted_overrides(tmp_path), "engine.workers=1"]
    config, place = load_config(Path("configs/demo.yaml"), overrides), tmp_path / "series"
    place.mkdir()
    watch = prefect.call("GET", "deployments/name/announce-checkpoints/watch")
    parameters = {"config": config.model_dump(mode="json"), "place": str(place), "series": "transcoder", "settle_s": 2}
    prefect.call("PATCH", f"deployments/{watch['id']}", {"parameters": parameters})
    schedule = watch["schedules"][0]["id"]
    prefect.call("PATCH", f"deployments/{watch['id']}/schedules/{schedule}", {"active": True})
    times, catalog = {}, tmp_path / "store" / "catalog.duckdb"

    def answers(query: str) -> list[tuple]:
        with open_published(catalog) as connection:
            return connection.execute(query).fetchall()

    def arrived_runs() -> list[dict[str, Any]]:
        found = prefect.call("POST", "flow_runs/filter", {"flows": {"name": {"any_": ["describe-arrived"]}}})
        return [run for run in found if run["start_time"]]

    for step in (1, 2):
        path = place / f"step-{step}"
        shutil.copytree(tmp_path / "transcoders", tmp_path / "coming")
        config_file = tmp_path / "coming" / "config.yaml"
        config_file.write_text(config_file.read_text() + f"\n# step {step}\n")
        (tmp_path / "coming").rename(path)
        began = time.monotonic()
        wait_for(lambda step=step: len(arrived_runs()) >= step, "a run starts")
        times[f"run {step} started"] = round(time.monotonic() - began)
        wait_for(lambda step=step: len(answers("SELECT * FROM watched")) == step, "a run ends")
        times[f"run {step} ended"] = round(time.monotonic() - began)
    [counts] = answers("SELECT count(*) FILTER (fate = 'kept'), count(*) FROM drift")
    times["drift answers"] = round(time.monotonic() - began)
    print(json.dumps(times))
    assert counts == (3, 3 + 2 * 29)  # features that read nothing have no like
    [run, *_] = arrived_runs()
    assert prefect.call("POST", "flow_runs/filter", {"flow_runs": {"tags": {"all_": ["planted-step-2", "model"]}}})
    assert run["parameters"]["config"]["transcoder"]["path"].startswith(str(place))
    assert times["run 1 started"] < 120  # a minute, and what a busy machine needs to start three processes
