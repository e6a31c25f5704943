"""Installed as a package: presets by name, and nothing in the working folder takes the place of ours."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

import pytest

from configs.load import load_config
from tests.conftest import ROOT
from tests.planted_store import planted_store

PACKAGES = ("circuit_insights", "configs", "explorer", "flows", "interp", "storage", "tasks")


def test_a_preset_is_known_by_its_name_and_works_in_the_folder_one_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("gpt2"), [])
    assert config.store == tmp_path / "store" / "gpt2"
    assert config.model.repo == "openai-community/gpt2"
    with pytest.raises(ValueError, match=r"no configuration file gpt3; presets are .*gemma-2-2b.*gpt2"):
        load_config(Path("gpt3"), [])


def test_modules_in_the_working_folder_are_not_taken_for_ours(tmp_path: Path) -> None:
    for name in ("tasks", "flows", "storage", "interp", "configs"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not ours')\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "circuit_insights", "--version"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert version("circuit-insights") in done.stdout


@pytest.mark.slow
def test_a_wheel_has_presets_templates_and_types_and_runs_elsewhere(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path / "wheel"), str(source)], check=True)
    [wheel] = (tmp_path / "wheel").glob("*.whl")
    ZipFile(wheel).extractall(tmp_path / "installed")
    installed = tmp_path / "installed"
    assert (installed / "configs" / "gpt2.yaml").is_file()
    assert (installed / "tasks" / "llm" / "known_prices.yaml").is_file()
    assert (installed / "explorer" / "templates").is_dir()
    assert all((installed / name / "py.typed").is_file() for name in PACKAGES)
    environment = {**os.environ, "PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    command = [sys.executable, "-m", "circuit_insights", "plan", "gpt2"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "attribute" in done.stdout


USE = """
import circuit_insights as ci
with ci.open_store({store!r}) as store:
    print(ci.__file__)
    print(store.feature(0, 3).description, len(store.feature(0, 3)._repr_html_()) > 500)
    print([(one.layer, one.feature) for one in store.activations("word5").firings])
    print(store.sql("SELECT count(*) FROM checkpoints").fetchall(), store.transcoder(1))
"""


@pytest.mark.whole
def test_installed_with_pip_it_is_imported_from_any_folder(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", str(site), str(source)], check=True)
    store = planted_store(tmp_path / "planted").store.root
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", USE.format(store=str(store))]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith(str(site))
    assert said[1:3] == ["word5 or <b>word7</b> True", "[(0, 3), (1, 2)]"]
    assert "[(1,)] TranscoderModule" in said[3]
    assert "leaked" not in done.stderr
