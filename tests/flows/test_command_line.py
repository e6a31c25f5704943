"""What the command line says about its own arguments, before anything is opened."""

from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.exchange import expect_empty

CONFIG = "configs/demo.yaml"


def refused(*arguments: object) -> str:
    """What is said of bad input, on one line."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def test_an_option_that_would_have_no_effect_is_refused(tmp_path: Path) -> None:
    said = refused("attribute", "Hello", "--output", tmp_path / "a.json", "--config", CONFIG, "--checkpoint", "demo")
    assert "--checkpoint: --config already names the checkpoint" in said
    said = refused("watch-checkpoints", CONFIG, "hf://someone/model", "--settle-s", "3", "--store", tmp_path / "store")
    assert "--settle-s: hf://someone/model is on the Hub" in said


def test_the_version_is_told() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"circuit-insights {version('circuit-insights')}\n")


@pytest.mark.parametrize("format", ["weightlens-json", "parquet"])
def test_nothing_is_exported_among_somebodys_files(tmp_path: Path, format: str) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    said = refused("export", tmp_path, "--format", format, "--store", tmp_path / "store")
    assert "is not empty (thesis.tex)" in said
    assert "--overwrite" in said
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    said = refused("export", tmp_path, "--format", format, "--overwrite", "--store", tmp_path / "store")
    assert "is not empty" not in said
    assert "store" in said


def test_a_new_or_empty_folder_is_exported_into(tmp_path: Path) -> None:
    expect_empty(tmp_path, overwrite=False)
    expect_empty(tmp_path / "new", overwrite=False)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        expect_empty(tmp_path / "file", overwrite=True)


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t", "\u00a0"])
def test_a_prompt_of_nothing_is_refused(tmp_path: Path, prompt: str) -> None:
    said = refused("attribute", prompt, "--output", tmp_path / "a.json", "--config", CONFIG, "--store", tmp_path / "s")
    assert "the prompt is empty; give some text" in said
