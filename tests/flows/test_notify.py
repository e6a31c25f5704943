"""A command of the user's is told what a run does, and cannot stop it."""

import json
import sys
from pathlib import Path

import pytest

from configs.load import load_config
from configs.run import RunConfig
from flows.running import notify
from tests.conftest import ROOT

RUN = {"run_id": "r", "checkpoint_id": "c", "corpus_id": None, "stage": "weightlens", "recipe": "x"}


def config(*command: str) -> RunConfig:
    return load_config(ROOT / "configs" / "demo.yaml", [f"notify.command={json.dumps(list(command))}"])


def writing(path: Path) -> RunConfig:
    program = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + chr(10))"
    return config(sys.executable, "-c", program, str(path))


def test_a_stage_that_ends_and_one_that_fails(tmp_path: Path) -> None:
    told = writing(tmp_path / "events")
    with notify.notifying(told, RUN):
        assert not (tmp_path / "events").exists()
    with pytest.raises(RuntimeError, match="broken"), notify.notifying(told, RUN):
        raise RuntimeError("broken")
    done, failed = map(json.loads, (tmp_path / "events").read_text().splitlines())
    assert done == {"event": "stage.finished", "name": "demo", **RUN, "error": None}
    assert failed == {"event": "stage.failed", "name": "demo", **RUN, "error": "RuntimeError: broken"}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("no-such-program-here",), "no-such-program-here: "),
        ((sys.executable, "-c", "raise SystemExit('no network')"), "exit code 1: no network"),
    ],
)
def test_a_command_that_fails_is_said_and_changes_nothing(
    command: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with notify.notifying(config(*command), RUN):
        pass
    assert message in capsys.readouterr().err.replace("\n", "")


def test_a_command_that_does_not_end_is_given_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notify, "TIMEOUT_S", 0.05)
    with notify.notifying(config(sys.executable, "-c", "import time; time.sleep(60)"), RUN):
        pass
    assert "timed out" in capsys.readouterr().err


def test_without_a_command_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify.subprocess, "run", lambda *_, **__: pytest.fail("something was run"))
    with notify.notifying(load_config(ROOT / "configs" / "demo.yaml", []), RUN):
        pass
