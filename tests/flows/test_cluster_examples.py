"""The cluster examples name what exists: objects of each other, programs, configurations and settings."""

import importlib.util
import re
import subprocess

import pytest
import yaml
from typer.main import get_command

from configs.load import load_config
from flows.cli import app
from tests.conftest import ROOT

EXAMPLES = ROOT / "deployments"


def test_the_patch_for_gpus_fits_the_worker_on_kubernetes() -> None:
    objects = [one for one in yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text()) if one]
    names = {(one["kind"], one["metadata"]["name"]): one for one in objects}
    text = (EXAMPLES / "kubernetes-gpu.yaml").read_text()
    patched = re.search(r"kubectl patch deployment (\S+) --patch-file deployments/kubernetes-gpu.yaml", text)
    assert patched is not None
    worker = names["Deployment", patched[1]]["spec"]["template"]["spec"]
    patch = yaml.safe_load(text)["spec"]["template"]["spec"]
    assert {one["name"] for one in patch["containers"]} <= {one["name"] for one in worker["containers"]}
    claims = [one["persistentVolumeClaim"]["claimName"] for one in worker["volumes"]]
    assert all(("PersistentVolumeClaim", claim) in names for claim in claims)
    [url] = [one["value"] for one in worker["containers"][0]["env"] if one["name"] == "PREFECT_API_URL"]
    service = names["Service", url.removeprefix("http://").partition(":")[0]]["spec"]
    assert f":{service['ports'][0]['port']}/" in url


@pytest.mark.parametrize("name", ["slurm.sbatch", "slurm-gpu.sbatch"])
def test_the_slurm_examples_name_programs_and_settings_that_exist(name: str) -> None:
    path = EXAMPLES / name
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text()
    modules, asked = re.findall(r" -m ([\w.]+)", text), re.findall(r"-m flows\.cli (\w+)", text)
    others = re.findall(r"/deployments/([\w.-]+)\"", text)
    on_gpus = name == "slurm-gpu.sbatch"  # which only runs the other one
    assert [bool(found) for found in (modules, asked, others)] == [not on_gpus, not on_gpus, on_gpus]
    assert all(importlib.util.find_spec(module) for module in modules)
    commands = getattr(get_command(app), "commands")  # noqa: B009
    assert all(one in commands for one in asked)
    assert all((EXAMPLES / one).exists() for one in others)
    [config] = re.findall(r"sbatch deployments/\S+ (configs/\S+\.yaml)", text)
    values = {"engine.workers": "2", "engine.device": "cuda", "engine.dask_address": "tcp://10.0.0.1:8786"}
    named = re.findall(r"(engine\.\w+)=\"?([\w.]*)", text)
    assert named
    load_config(ROOT / config, [f"{key}={values.get(key) or value}" for key, value in named])


@pytest.mark.parametrize("devices", ["all", "2"])
def test_the_setting_for_several_gpus_that_they_name(devices: str) -> None:
    assert "engine.runner=dask engine.devices=all" in (EXAMPLES / "kubernetes-gpu.yaml").read_text()
    config = load_config(ROOT / "configs/gpt2.yaml", ["engine.runner=dask", f"engine.devices={devices}"])
    assert str(config.engine.devices) == devices
