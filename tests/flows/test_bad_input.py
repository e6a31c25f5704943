"""Every kind of bad input: one message that names it, exit code 2, and a store that is as it was."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from flows.cli import app
from storage.catalog.database import SCHEMA_VERSION, open_catalog
from tests.conftest import planted_overrides

pytestmark = pytest.mark.whole

CONFIG = "configs/demo.yaml"


@pytest.fixture
def case(tmp_path: Path) -> tuple[Path, list[str]]:
    return tmp_path, planted_overrides(tmp_path)


def fails(folder: Path, overrides: list[str], *expected: str, command: str = "run") -> None:
    """Run, and expect a refusal that says so and leaves no store behind."""
    result = CliRunner().invoke(app, [command, CONFIG, *overrides])
    assert result.exit_code == 2, result.output
    for text in expected:
        assert text in result.output.replace("\n", ""), result.output
    assert "Traceback" not in result.output
    assert len(result.output.splitlines()) < 25
    assert not (folder / "store").exists()


def change(path: Path, **changes: torch.Tensor | None) -> None:
    tensors = {**load_file(path), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


def test_missing_folders_and_files(case: tuple[Path, list[str]]) -> None:
    folder, overrides = case
    fails(folder, [*overrides, "model.path=nowhere"], "model.path: no folder nowhere")
    fails(folder, [*overrides, "transcoder.path=nowhere"], "transcoder.path: no folder nowhere")
    fails(folder, [*overrides, "corpus.source=nowhere.txt"], "corpus: no file nowhere.txt")
    result = CliRunner().invoke(app, ["run", "nowhere.yaml"])
    assert (result.exit_code, "no configuration file nowhere.yaml" in result.output) == (2, True)


def test_settings(case: tuple[Path, list[str]]) -> None:
    folder, overrides = case
    fails(folder, [*overrides, "weightlens.ztokens=3"], "weightlens.ztokens: unknown key")
    fails(folder, [*overrides, "engine.colour=3"], "engine.colour: unknown key")
    fails(folder, [*overrides, "weightlens.z_tokens=-1"], "weightlens.z_tokens", "greater than 0", "found -1")
    fails(folder, [*overrides, "shard_size"], "'shard_size': expected key=value")
    fails(folder, [*overrides, "transcoder.path=null"], "set either path (a release) or train")
    fails(folder, [*overrides, "corpus.n_pos=4096"], "corpus.n_pos is 4096; the model has")
    ready = [*overrides, "corpus.source=t.jsonl", "corpus.token_field=ids"]
    fails(folder, ready, "corpus.tokenizer_sha256 is not set; the tokenizer of")
    fails(folder, [*ready, "corpus.tokenizer_sha256=abc"], "corpus.tokenizer_sha256 is abc; the tokenizer of")
    fails(folder, [*overrides, "model.bos=1000"], "model.bos is 1000; the vocabulary has 32 tokens")


def test_matrices_that_do_not_fit_on_the_disk(case: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, overrides = case
    overrides = [*overrides, "stages=[weightlens, activations, coactivation]"]
    monkeypatch.setattr("flows.costs.coactivation.shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    fails(folder, overrides, "coactivation.pairs: the matrices of all take about", "set coactivation.pairs=edges")
    planned = CliRunner().invoke(app, ["plan", CONFIG, *overrides, "coactivation.pairs=edges"])
    assert planned.exit_code == 0, planned.output


def test_a_fresh_plan_counts_what_the_stages_before_will_make_possible(case: tuple[Path, list[str]]) -> None:
    overrides = case[1]

    def wired(*more: str) -> int:
        planned = CliRunner().invoke(app, ["plan", CONFIG, *overrides, *more, "--json"])
        assert planned.exit_code == 0, planned.output
        return next(step["todo"] for step in json.loads(planned.stdout)["steps"] if step["name"] == "wire")

    assert wired("stages=[weightlens, activations, coactivation, describe]") > 0
    assert wired("stages=[weightlens, activations, describe]") == 0


@pytest.mark.parametrize("text", ["- a list", "model: [1, 2]", "1: 2", "", "name: [", "name: x\nmodel: null", "\x00"])
def test_configurations_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    result = CliRunner().invoke(app, ["run", str(path)])
    assert result.exit_code == 2, result.output
    assert "run.yaml" in result.output.replace("\n", "")
    assert "Traceback" not in result.output


def test_transcoders_of_another_model(case: tuple[Path, list[str]]) -> None:
    folder, overrides = case
    layer = folder / "transcoders" / "layer_1.safetensors"
    tensors = load_file(layer)
    change(layer, W_enc=torch.zeros(16, 20), W_dec=torch.zeros(16, 20), b_dec=torch.zeros(20))
    fails(folder, overrides, "the transcoder of layer 1 is for width 20", "has 48")
    save_file(tensors, layer)
    shutil.copy(layer, layer.with_name("layer_2.safetensors"))
    fails(folder, overrides, "transcoders for 3 layers", "has 2")
    layer.unlink()
    fails(folder, overrides, "no file layer_1.safetensors; found layers [0, 2]")


def test_damaged_weights(case: tuple[Path, list[str]]) -> None:
    folder, overrides = case
    for file in (folder / "transcoders" / "layer_1.safetensors", folder / "model" / "model.safetensors"):
        whole = file.read_bytes()
        for damaged in (whole[:-100], whole[:20], b"", b"\xff" * 8 + whole[8:]):
            file.write_bytes(damaged)
            fails(folder, overrides, str(file), "truncated or not a safetensors file")
        file.write_bytes(whole)


def test_weights_that_are_not_finite(case: tuple[Path, list[str]]) -> None:
    folder, overrides = case
    layer = folder / "transcoders" / "layer_1.safetensors"
    good = load_file(layer)
    bad = good["W_enc"].clone()
    bad[3, 4], bad[5, 6] = torch.nan, torch.inf
    change(layer, W_enc=bad)
    fails(folder, overrides, "layer_1.safetensors: W_enc holds 2 NaN or infinite values")
    save_file(good, layer)
    model = folder / "model" / "model.safetensors"
    weights = load_file(model)
    weights["lm_head.weight"][0, 0] = torch.nan
    save_file(weights, model, metadata={"format": "pt"})
    fails(folder, overrides, "lm_head.weight holds 1 NaN or infinite values")


def test_weights_that_are_missing_or_of_another_shape_or_dtype(case: tuple[Path, list[str]]) -> None:
    folder, overrides = case
    model = folder / "model" / "model.safetensors"
    weights = load_file(model)
    save_file({k: v for k, v in weights.items() if k != "model.norm.weight"}, model, metadata={"format": "pt"})
    fails(folder, overrides, "missing keys ['model.norm.weight']")
    save_file(weights, model, metadata={"format": "pt"})
    layer = folder / "transcoders" / "layer_0.safetensors"
    good = load_file(layer)
    change(layer, b_enc=torch.zeros(3))
    fails(folder, overrides, "b_enc has shape [3], expected [16]")
    save_file(good, layer)
    change(layer, W_enc=good["W_enc"].double())
    fails(folder, overrides, "W_enc is torch.float64; expected float32, bfloat16 or float16")


def test_a_tokenizer_of_another_vocabulary(case: tuple[Path, list[str]]) -> None:
    folder, overrides = case
    path = folder / "model" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"] = {k: v for k, v in tokenizer["model"]["vocab"].items() if v < 20}
    path.write_text(json.dumps(tokenizer))
    fails(folder, overrides, "the tokenizer has 20 tokens, the model 32")


def test_a_tokenizer_that_is_not_there(case: tuple[Path, list[str]]) -> None:
    folder, overrides = case
    (folder / "model" / "tokenizer.json").rename(folder / "model" / "tokenizer.model")
    fails(
        folder, overrides, f"{folder / 'model'}: no tokenizer; expected tokenizer.json (or vocab.json and merges.txt)"
    )
    (folder / "model" / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    fails(folder, overrides, "no tokenizer; expected tokenizer.json", command="plan")


def test_an_unknown_family_and_no_code_from_the_folder(case: tuple[Path, list[str]]) -> None:
    folder, overrides = case
    path = folder / "model" / "config.json"
    config = json.loads(path.read_text())
    trap = folder / "trap"
    (folder / "model" / "evil.py").write_text(f"open({str(trap)!r}, 'w')")
    path.write_text(json.dumps({**config, "model_type": "mamba", "auto_map": {"AutoConfig": "evil.Evil"}}))
    fails(folder, overrides, "model family 'mamba' is not supported")
    assert not trap.exists()


def test_transcoders_read_at_the_wrong_place_are_refused(tmp_path: Path, cli: Callable) -> None:
    overrides = planted_overrides(tmp_path)
    layer = tmp_path / "transcoders" / "layer_0.safetensors"
    change(layer, W_dec=-load_file(layer)["W_dec"])
    result = cli("run", CONFIG, *overrides)
    assert result.returncode == 2
    assert "does not fit" in result.stderr
    assert "layer 0: explained variance" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((tmp_path / "store").rglob("W_enc"))
    accepted = cli("run", CONFIG, *overrides, "transcoder.accept_poor_quality=true")
    assert accepted.returncode == 0


def test_a_store_that_cannot_be_written(case: tuple[Path, list[str]]) -> None:
    folder, overrides = case
    (folder / "file").write_text("")
    result = CliRunner().invoke(app, ["run", CONFIG, *overrides, f"store={folder / 'file' / 'store'}"])
    assert result.exit_code == 2
    assert "cannot be written" in result.output


def test_a_catalog_of_a_newer_version(case: tuple[Path, list[str]]) -> None:
    folder, overrides = case
    catalog = folder / "store" / "catalog.duckdb"
    catalog.parent.mkdir()
    with open_catalog(catalog, write=True) as connection:
        connection.execute("UPDATE schema_version SET version = version + 1")
    before = {path: path.read_bytes() for path in catalog.parent.iterdir()}
    result = CliRunner().invoke(app, ["run", CONFIG, *overrides])
    assert result.exit_code == 2
    assert f"schema version {SCHEMA_VERSION + 1}" in result.output
    assert {path: path.read_bytes() for path in catalog.parent.iterdir()} == before


def test_a_full_disk_is_said_and_resumed_from(tmp_path: Path, small_disk: Callable, cli: Callable) -> None:
    place = tmp_path / "small"
    small_disk(place, "300k")
    overrides = [*planted_overrides(tmp_path), f"store={place / 'store'}"]
    result = cli("run", CONFIG, *overrides, "--force")
    assert result.returncode == 2, result.stderr
    assert "disk full" in result.stderr
    assert "Traceback" not in result.stderr
    small_disk(place, "50m")
    assert cli("run", CONFIG, *overrides).returncode == 0
