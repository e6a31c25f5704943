"""The kit for a borrowed GPU, run whole on the CPU with tiny shapes, so that it works there the first time."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu, gpu_parts


@pytest.mark.parametrize("part", gpu_parts.PARTS)
def test_every_part_measures(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_parts, "LEAST_S", 0.0)
    line = gpu_parts.measure(part, "tiny", "cpu")
    assert line["part"] == part
    figures = [value for name, value in line.items() if isinstance(value, float)]
    assert figures
    assert min(figures) > 0


def test_a_part_that_is_too_slow_or_fails_costs_no_other_its_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def run(command: list[str], timeout: float, **_: Any) -> subprocess.CompletedProcess[str]:
        part = command[command.index("--part") + 1] if "--part" in command else gpu.PEER
        asked.append(part)
        if part == "corpus":
            raise subprocess.TimeoutExpired(command, timeout)
        if part == "training":
            return subprocess.CompletedProcess(command, 1, "", "Traceback\nOutOfMemoryError: no room")
        return subprocess.CompletedProcess(command, 0, json.dumps({"part": part}) + "\n", "")

    monkeypatch.setattr(gpu.subprocess, "run", run)
    monkeypatch.setattr(gpu, "PEERS", tmp_path / "python")
    (tmp_path / "python").touch()
    found = list(gpu.lines("cuda:1", ["gpt2", "smollm2"], 1000))
    assert gpu.LIMITS_S.keys() == {*gpu_parts.PARTS, gpu.PEER}
    assert len(found) == 1 + 2 * len(gpu_parts.PARTS) == len(asked)
    said = {str(line["part"]): line.get("not_measured") for line in found}
    assert said["corpus"] == "longer than 60 s"
    assert said["training"] == "OutOfMemoryError: no room"
    assert said["steering"] is said[gpu.PEER] is None
    (tmp_path / "python").unlink()
    said = {str(line["part"]): line.get("not_measured") for line in gpu.lines("cuda:1", ["gpt2"], 1000)}
    assert said[gpu.PEER] == "circuit-tracer is not installed (make oracles)"
    left = list(gpu.lines("cuda:1", ["gpt2"], 0))
    assert {line["not_measured"] for line in left} == {"the time was up"}
