"""What commands answer with --json, and that docs/json.md describes every field of it."""

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from configs.load import load_config
from flows.cli import app
from flows.cli.answers import FEATURE_TABLES, evaluation_answer, plan_answer
from flows.costs.plan import planned
from flows.costs.rates import Rates
from flows.describe_checkpoint import stages
from storage.hub import UnreachableError
from tests.conftest import ROOT
from tests.explorer.small_catalog import CHECKPOINT, write_small_catalog

PAGE = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")


def described(section: str) -> set[str]:
    """Every name in code in a section of the page, and what all answers have."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    return {"schema", *re.findall(r"`(\w+)`", text)}


def answered(*arguments: object) -> dict[str, object]:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    return json.loads(line)


def test_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object) -> str:
        raise UnreachableError("no network")

    monkeypatch.setattr("flows.inputs.origin.resolve", offline)
    monkeypatch.setattr("flows.costs.plan.Rates.measured", lambda *_: Rates(1e10, 1e10))
    config = load_config(ROOT / "configs" / "gpt2.yaml", [])
    answer = plan_answer(planned(config, stages(config)), "store", ["a key is missing"], [])
    assert set(answer) <= described("plan")
    steps = answer["steps"]
    assert isinstance(steps, list)
    assert all(set(step) <= described("plan") for step in steps)
    assert (answer["from_records"], answer["checkpoint_id"]) == (True, None)
    assert answer["seconds"] == pytest.approx(14 + sum(step["seconds"] for step in steps))
    assert json.loads(json.dumps(answer)) == answer


def test_a_feature(planted_root: Path) -> None:
    answer = answered("show", 0, 3, "--store", planted_root)
    assert set(answer) <= described("show")
    for name in ("descriptions", "scores", "tokens", "upstream", "samples"):
        selected = re.search(r"SELECT (.*?) FROM", FEATURE_TABLES[name], re.S)
        assert selected
        assert {part.split(".")[-1].strip() for part in selected[1].split(",")} <= described("show"), name
    assert (answer["layer"], answer["feature"], answer["name"]) == (0, 3, "planted")
    assert [row["text"] for row in answer["descriptions"]] == ["word5 or <b>word7</b>"]  # pyright: ignore
    refused = CliRunner().invoke(app, ["show", "7", "3", "--store", str(planted_root), "--json"])
    assert (refused.exit_code, refused.stdout) == (2, "")


def test_a_store_that_is_well(planted_root: Path) -> None:
    answer = answered("doctor", "--store", planted_root)
    assert set(answer) <= described("doctor")
    assert answer["ok"] is True
    checks = answer["checks"]
    assert isinstance(checks, list)
    assert {"python", "machine", "prefect", "store"} <= {check["name"] for check in checks}
    assert all(set(check) == {"name", "ok", "text"} for check in checks)


def test_a_damaged_store_is_told_before_the_command_fails(planted_root: Path, tmp_path: Path) -> None:
    shutil.copytree(planted_root, tmp_path / "store")
    chunk = next(path for path in tmp_path.glob("store/checkpoints/*/layers/00/W_enc/c/**/*") if path.is_file())
    chunk.write_bytes(bytes([chunk.read_bytes()[0] ^ 1]) + chunk.read_bytes()[1:])
    result = CliRunner().invoke(app, ["doctor", "--store", str(tmp_path / "store"), "--json"])
    assert result.exit_code == 2
    answer = json.loads(result.stdout)
    failed = [(check["name"], check["text"]) for check in answer["checks"] if not check["ok"]]
    assert answer["ok"] is False
    assert "layers/00/W_enc" in failed[0][1]
    assert failed[-1][0] == "error"
    assert "is damaged in 1 places" in failed[-1][1]


def test_an_evaluation(tmp_path: Path) -> None:
    answer = evaluation_answer(write_small_catalog(tmp_path), CHECKPOINT)
    assert set(answer) <= described("evaluate")
    rows = answer["methods"]
    assert isinstance(rows, list)
    assert {"layer", "method", "metric", "mean", "low", "high", "n_features"} <= set(rows[0])
