"""Work of the interpreter in processes of this machine: where it is done, its errors, and how the processes end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.running import processes
from flows.running.processes import ForkedProcesses, processes_at_hand
from tasks.shard_task import PROCESSES, shard_task
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")


@shard_task("whereabouts", "whereabouts", interpreted=True)
def whereabouts() -> int:
    """The process that does it."""
    return os.getpid()


@shard_task("ordinary", "ordinary")
def ordinary() -> int:
    """Work that threads do well."""
    return os.getpid()


@shard_task("refuse", "refuse", interpreted=True)
def refuse() -> None:
    """Bad input."""
    raise ValueError("layer 3 has no decoder")


@shard_task("vanish", "vanish", interpreted=True)
def vanish() -> None:
    """What the system does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> ForkedProcesses:
    """Within `processes_at_hand`, which a test enters: processes that were begun after the first work."""
    monkeypatch.setattr(processes, "PAYS_S", 0.0)
    monkeypatch.setattr(processes, "PRELOADED", "tasks.shard_task")
    return ForkedProcesses(2)


def started(here: ForkedProcesses) -> None:
    here.spent(0.0)
    ends = time.monotonic() + 120
    while here.executor is None:
        assert time.monotonic() < ends
        time.sleep(0.02)


@pytest.mark.whole
def test_processes_begin_when_they_pay_and_end_with_the_run(begun: ForkedProcesses) -> None:
    token = PROCESSES.set(begun)
    try:
        assert whereabouts.fn() == os.getpid()
        started(begun)
        there = whereabouts.fn()
        assert there != os.getpid()
        assert ordinary.fn() == os.getpid()
        with pytest.raises(ValueError, match="layer 3 has no decoder"):
            refuse.fn()
        with pytest.raises(ValueError, match=r"a process of the task vanish was killed.*engine.workers"):
            vanish.fn()
    finally:
        PROCESSES.reset(token)
        begun.end()
    ends = time.monotonic() + 60
    while psutil.pid_exists(there):
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_little_work_begins_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PAYS_S", 60.0)
    with processes_at_hand(2):
        assert whereabouts.fn() == os.getpid()
        here = PROCESSES.get()
        assert here is not None
        assert here.executor is None


def test_one_worker_has_no_processes() -> None:
    with processes_at_hand(1):
        assert PROCESSES.get() is None


SCRIPT = """
import os, signal, sys, time
from flows.running import processes
from tasks.shard_task import PROCESSES
processes.PAYS_S, processes.PRELOADED = 0.0, "tasks.forked"
with processes.processes_at_hand(2):  # without a guard: a process that imported this script would begin others
    here = PROCESSES.get()
    here.spent(0.0)
    while here.executor is None:
        time.sleep(0.02)
    print(*{here.executor.submit(os.getpid).result() for _ in range(8)}, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.whole
def test_processes_end_with_a_run_that_is_killed_and_do_not_run_its_script(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = list(map(int, done.stdout.split()))
    assert pids
    ends = time.monotonic() + 60
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_work_that_goes_on_after_the_end_starts_no_processes(begun: ForkedProcesses) -> None:
    begun.end()
    begun.spent(1000.0)
    assert begun.executor is None
    assert begun._starting is None  # pyright: ignore[reportPrivateUsage]
