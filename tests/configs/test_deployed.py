"""The deployed demo is the demo: one file says what both run."""

from pathlib import Path

import pytest
import yaml
from prefect.utilities.importtools import import_object
from prefect.utilities.templating import apply_values

from configs.deployed import deployed
from configs.load import load_config
from configs.run import RunConfig
from tests.conftest import ROOT


def test_the_deployed_demo_runs_with_the_configuration_of_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    file = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text(encoding="utf-8"))
    [demo] = [deployment for deployment in file["deployments"] if deployment["name"] == "demo"]
    [(function, inputs)] = demo["build"][0].items()
    step = import_object(function)(path=inputs["path"])
    given = apply_values(demo["parameters"], {inputs["id"]: step})["config"]
    assert not Path(given["model"]["path"]).is_absolute()
    here = {"store": str(ROOT / given["store"])} | {
        name: {**given[name], "path": str(ROOT / given[name]["path"])} for name in ("model", "transcoder")
    }
    assert RunConfig.model_validate({**given, **here}) == load_config(ROOT / "configs" / "demo.yaml", [])


def test_paths_elsewhere_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.yaml"
    text = "{name: a, model: {path: m}, transcoder: {path: /elsewhere}, corpus: {source: [python-docs, t.txt]}}"
    path.write_text(text)
    config = deployed(str(path))["config"]
    assert config["model"] == {"path": "m"}
    assert config["transcoder"] == {"path": "/elsewhere"}
    assert config["corpus"] == {"source": ["python-docs", "t.txt"]}
