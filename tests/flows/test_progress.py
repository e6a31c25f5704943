"""What a command says while it works, and the server that it starts while it imports its libraries."""

import os
import time

import pytest

from flows.cli.run import _next_steps
from flows.reports.summary import Summary, quoted_words
from flows.running import prefect_server, progress
from flows.running.progress import working


@pytest.mark.timeout(30)
def test_a_log_is_never_silent_for_long(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SILENCE_S", 0.2)
    said = ""
    with working("outer"), working("inner", 7) as step:
        step.advance(3)
        while "inner: 3 of 7, " not in said:
            time.sleep(0.05)
            said += capsys.readouterr().err
    said += capsys.readouterr().err
    assert said.startswith("outer …\n")
    assert "inner: 7 done, " in said


def test_a_step_that_fails_is_not_called_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), working("step", 2):
        raise KeyError
    assert "done" not in capsys.readouterr().err
    assert progress._display.steps == []


class _Started(list[str]):
    def end(self) -> None:
        self.append("ended")


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> list[_Started]:
    made: list[_Started] = []

    def start() -> _Started:
        made.append(_Started())
        return made[-1]

    monkeypatch.setattr(prefect_server, "start", start)
    monkeypatch.setattr(prefect_server, "_early", [])
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return made


def test_a_server_started_early_is_the_one_used(servers: list[_Started]) -> None:
    prefect_server.start_early()
    prefect_server.start_early()
    assert prefect_server.started() is servers[0]
    assert len(servers) == 1
    assert prefect_server.started() is servers[1]


def test_no_server_is_started_early_beside_one_that_is_set(
    servers: list[_Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefect_server.start_early()
    prefect_server.end_early()
    assert servers == [["ended"]]
    monkeypatch.setitem(os.environ, "PREFECT_API_URL", "http://127.0.0.1:1/api")
    prefect_server.start_early()
    assert len(servers) == 1


def test_the_end_names_commands_to_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["some/bin/circuit-insights"])
    summary = Summary([], [], 0, 0, (1, 94, "‘-float’, ‘complex’ $(x)"), None)
    steps = dict(_next_steps(summary, "s3://bucket/a b"))
    assert steps["feature"] == "some/bin/circuit-insights show 1 94 --store 's3://bucket/a b'"
    assert "LIKE '%complex%'\" --store" in steps["query"]
    assert steps["explorer"] == "some/bin/circuit-insights serve --store 's3://bucket/a b'"
    assert "report" not in steps
    assert quoted_words('‘a"b’, ‘$HOME’, ‘word’, ‘if’') == ["word"]
