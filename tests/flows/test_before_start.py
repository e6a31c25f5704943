"""What cannot end well is refused before anything starts: no store is made, nothing is read, nobody is asked twice."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from typer.testing import CliRunner

from configs.load import load_config
from flows.cli import app
from flows.describe_checkpoint import STAGES
from flows.running import prefect_server
from flows.running.before_start import check_before_start
from flows.running.stage import perform_alone
from storage.catalog.published import open_published
from tests.bit_flips import run as do_stages
from tests.bit_flips import without_prefect
from tests.conftest import cli_environment, listening, planted_overrides, unused_port
from tests.tasks.api_server import KEY, Api, error
from tests.tasks.chat_model import write_chat_model

pytestmark = pytest.mark.whole

CONFIG = "configs/demo.yaml"

CLAUDE = [
    "describe.explainer=anthropic", "anthropic.model=some-model", "llm.budget_usd=20",
    "anthropic.prices={input: 3, output: 15, cache_write: 3.75, cache_read: 0.3}", "stages=[weightlens, describe]",
]  # fmt: skip


@pytest.fixture
def planted(tmp_path: Path) -> list[str]:
    return planted_overrides(tmp_path)


@pytest.fixture
def api(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", httpserver.url_for("").rstrip("/"))
    return Api(httpserver)


def output(command: str, overrides: list[str], code: int = 2) -> str:
    result = CliRunner().invoke(app, [command, CONFIG, *overrides])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def test_a_missing_key_is_said_by_plan_and_refused_by_run(
    planted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    overrides = [*planted, *CLAUDE]
    assert "not ready: ANTHROPIC_API_KEY is not set in the environment" in output("plan", overrides, 0)
    said = output("run", overrides)
    assert "ANTHROPIC_API_KEY is not set in the environment; it is needed to ask some-model" in said
    assert "Plan" not in said
    assert not (tmp_path / "store").exists()
    assert "not ready" not in output("plan", [*planted, *CLAUDE, "stages=[weightlens]"], 0)


def check(*overrides: str) -> None:
    config = load_config(Path(CONFIG), list(overrides))
    check_before_start(config, None, config.stages)


def test_a_key_that_is_refused_and_a_model_that_is_unknown(planted: list[str], api: Api) -> None:
    check(*planted, *CLAUDE)
    api.troubles = [error(529)]
    check(*planted, *CLAUDE)  # busy: that may pass
    api.troubles = [error(401, "authentication_error")]
    with pytest.raises(ValueError, match="ANTHROPIC_API_KEY is not accepted for some-model"):
        check(*planted, *CLAUDE)
    api.troubles = [error(404, "not_found_error")]
    with pytest.raises(ValueError, match=r"anthropic\.model: some-model is not known to"):
        check(*planted, *CLAUDE)
    assert not api.direct


def test_an_api_out_of_reach_and_a_budget_of_nothing(
    planted: list[str], api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"llm\.budget_usd is 0"):
        check(*planted, *CLAUDE, "llm.budget_usd=0")
    address = f"http://127.0.0.1:{unused_port()}"
    monkeypatch.setenv("ANTHROPIC_BASE_URL", address)
    with pytest.raises(ValueError, match=f"nothing answers at {address}"):
        check(*planted, *CLAUDE)
    assert api.n_count == 0


def test_a_local_model_that_is_none(planted: list[str], tmp_path: Path) -> None:
    local = [*planted, "stages=[weightlens, describe]", "describe.explainer=local"]
    with pytest.raises(ValueError, match=r"local_model\.path is not set"):
        check(*local)
    chat = write_chat_model(tmp_path / "chat", first="a", second="b")
    check(*local, f"local_model.path={chat}")
    (chat / "model.safetensors").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"holds no \*\.safetensors weights"):
        check(*local, f"local_model.path={chat}")


def test_a_dask_scheduler_that_is_not_there(planted: list[str], tmp_path: Path) -> None:
    address = f"tcp://127.0.0.1:{unused_port()}"
    overrides = [*planted, "engine.runner=dask", f"engine.dask_address={address}"]
    assert f"not ready: engine.dask_address: no Dask workers at {address}" in output("plan", overrides, 0)
    with pytest.raises(ValueError, match=f"engine.dask_address: no Dask workers at {address}"):
        check(*overrides)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ("[circuitlens]", "stages: circuitlens reads results of activations"),
        ("[describe]", "stages: describe reads results of weightlens or activations"),
        ("[activations, evaluate]", "stages: evaluate reads results of describe or weightlens"),
        ("[activations, coactivation]", "stages: coactivation reads results of weightlens"),
    ],
)
def test_stages_whose_evidence_is_nowhere(planted: list[str], tmp_path: Path, stages: str, said: str) -> None:
    overrides = [*planted, f"stages={stages}", "coactivation.pairs=edges"]
    assert said in output("plan", overrides)
    with pytest.raises(ValueError, match=said[:30]):
        check(*overrides)
    assert not (tmp_path / "store").exists()


def test_a_method_whose_evidence_is_nowhere(planted: list[str]) -> None:
    overrides = [*planted, "stages=[weightlens, describe]", "describe.methods=[maxact]"]
    with pytest.raises(ValueError, match="stages: describe reads results of activations"):
        check(*overrides)


@pytest.mark.parametrize("where", ["environment", "profile"])
def test_a_prefect_server_that_does_not_answer(
    cli: Callable, planted: list[str], tmp_path: Path, where: str, prefect_home: Path
) -> None:
    url = f"http://127.0.0.1:{unused_port()}/api"
    environment = cli_environment(prefect_home)
    if where == "environment":
        environment["PREFECT_API_URL"] = url
    else:
        home = tmp_path / "home"
        home.mkdir()
        (home / "profiles.toml").write_text(f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{url}"\n')
        environment["PREFECT_HOME"] = str(home)
    result = cli("run", CONFIG, *planted, env=environment)
    assert result.returncode == 2, result.stderr
    assert f"PREFECT_API_URL is {url}, set in the {where}" in result.stderr
    assert "set PREFECT_API_URL= (to nothing) for this command" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) < 20
    assert not (tmp_path / "store").exists()
    alone = cli("weightlens", CONFIG, *planted, env=environment)
    assert alone.returncode == 2
    assert f"PREFECT_API_URL is {url}" in alone.stderr


def test_something_else_at_the_address_of_prefect(
    cli: Callable, planted: list[str], httpserver: HTTPServer, prefect_home: Path
) -> None:
    url = httpserver.url_for("/api")
    result = cli("run", CONFIG, *planted, env=cli_environment(prefect_home, url))
    assert result.returncode == 2
    assert f"PREFECT_API_URL is {url}" in result.stderr
    with socket.create_connection(("127.0.0.1", httpserver.port)):
        pass  # it was there all the time


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("circuitlens", "circuitlens reads results of activations"),
        ("describe", "ANTHROPIC_API_KEY is not set in the environment"),
    ],
)
def test_a_stage_alone_is_checked_like_a_run(
    planted: list[str], monkeypatch: pytest.MonkeyPatch, stage: str, said: str
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    config = load_config(Path(CONFIG), [*planted, *CLAUDE, "stages=[]"])
    with without_prefect():
        do_stages(config)
    with pytest.raises(ValueError, match=said):
        perform_alone(STAGES[stage], config, force=False)
    with open_published(config.store / "catalog.duckdb") as connection:
        assert connection.execute("SELECT DISTINCT stage FROM runs").fetchall() == []


def test_prefects_server_of_a_run_is_heard_on_this_machine_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    server = prefect_server.start()
    try:
        server.wait_until_it_answers()
        assert server.url.startswith("http://127.0.0.1:")
        assert listening(server.process.pid) == {"127.0.0.1"}
    finally:
        server.end()
