"""The command line with a model and transcoders that are on a Hub."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest

from tests.conftest import ROOT, cli_environment, files_with, planted_overrides
from tests.hub_server import COMMIT, HubServer

pytestmark = pytest.mark.whole

CONFIG = "configs/demo.yaml"
TOKEN = "hf_thisIsVerySecret"

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def hub_cli(hub: HubServer, tmp_path: Path, prefect_home: Path, prefect_api: str) -> Cli:
    """The command line with that Hub, a cache of its own and a token; it never tells the token."""
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment.update(cli_environment(prefect_home, prefect_api), **settings)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert TOKEN not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def test_a_model_of_the_hub_is_planned_fetched_described_and_then_needs_no_hub(
    hub: HubServer, hub_cli: Cli, tmp_path: Path, prefect_home: Path
) -> None:
    folders = planted_overrides(tmp_path)
    hub.repos = {"someone/model": tmp_path / "model", "someone/transcoders": tmp_path / "transcoders"}
    changes = {"model.path": "model.repo=someone/model", "transcoder.path": "transcoder.repo=someone/transcoders"}
    overrides = [changes.get(override.split("=")[0], override) for override in folders]
    overrides += ["model.path=null", "transcoder.path=null"]

    planned = hub_cli("plan", CONFIG, *overrides)
    assert planned.returncode == 0, planned.stderr
    assert "download" in planned.stdout
    assert set(hub.downloads()) == {"config.json", "tokenizer.json", "tokenizer_config.json", "layer_0.safetensors"}
    assert hub.ranges == ["layer_0.safetensors: bytes=0-100000"]
    assert not (tmp_path / "store").exists()

    hub.cuts["model.safetensors"] = [1000, *[0] * 20]
    broken = hub_cli("doctor", CONFIG, *overrides)
    assert broken.returncode == 2
    assert "run the same command again" in broken.stderr

    hub.cuts.clear()
    hub.requests.clear()
    done = hub_cli("run", CONFIG, *overrides)
    assert done.returncode == 0, done.stderr
    assert "model.safetensors" in hub.downloads()
    assert "config.json" not in hub.downloads()
    with duckdb.connect(tmp_path / "store" / "catalog.duckdb", read_only=True) as catalog:
        row = catalog.execute(
            "SELECT checkpoint_id, model_name, model_revision, transcoder_name, transcoder_revision FROM checkpoints"
        ).fetchone()
    assert row is not None
    checkpoint_id, *origins = row
    assert origins == ["someone/model", COMMIT, "someone/transcoders", COMMIT]

    assert f"Bearer {TOKEN}" in hub.tokens  # it was used, and is nowhere: store, cache, Prefect's database
    assert files_with(TOKEN, tmp_path, prefect_home) == []

    hub.stop()
    again = hub_cli("run", CONFIG, *overrides)
    assert f"Nothing to do: checkpoint {checkpoint_id}" in again.stderr, again.stderr
    from_folders = hub_cli("doctor", CONFIG, *folders, f"store={tmp_path / 'other'}")
    assert f"checkpoint {checkpoint_id}" in from_folders.stdout, from_folders.stderr


def test_what_is_refused_is_said_on_the_command_line(hub: HubServer, hub_cli: Cli, tmp_path: Path) -> None:
    overrides = [*planted_overrides(tmp_path), "model.path=null", "model.repo=someone/model"]
    absent = hub_cli("plan", CONFIG, *overrides)
    assert absent.returncode == 2
    assert "no repository someone/model" in absent.stderr
    hub.repos["someone/model"] = tmp_path / "model"
    hub.gated.add("someone/model")
    gated = hub_cli("doctor", CONFIG, *overrides)
    assert gated.returncode == 2
    assert "someone/model is gated: accept its licence" in gated.stderr
