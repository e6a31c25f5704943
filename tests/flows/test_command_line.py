"""What the command line says about its own arguments, before anything is opened."""

from pathlib import Path

from typer.testing import CliRunner

from flows.cli import app

CONFIG = "configs/demo.yaml"


def refused(*arguments: object) -> str:
    """What is said of bad input, on one line."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def test_an_option_that_would_have_no_effect_is_refused(tmp_path: Path) -> None:
    said = refused("attribute", "Hello", "--output", tmp_path / "a.json", "--config", CONFIG, "--checkpoint", "demo")
    assert "--checkpoint: --config says which checkpoint it is" in said
    said = refused("watch-checkpoints", CONFIG, "hf://someone/model", "--settle-s", "3", "--store", tmp_path / "store")
    assert "--settle-s: hf://someone/model is on the Hub" in said
