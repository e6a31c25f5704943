"""The planted model with its transcoders as a cross-layer one, whose folder does not say where it reads."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from storage.catalog.database import open_catalog
from tests.conftest import planted_overrides
from tests.planted import D_MODEL, D_TRANSCODER

pytestmark = pytest.mark.whole

CONFIG = "configs/demo.yaml"
TOKEN = 15  # what feature 1 of layer 0 promotes, but only by what it writes to the MLP output of layer 1


def as_cross_layer(folder: Path) -> None:
    """Rewrite the planted transcoders, with a second decoder for layer 0."""
    for layer in range(2):
        tensors = load_file(folder / f"layer_{layer}.safetensors")
        (folder / f"layer_{layer}.safetensors").unlink()
        W_dec = tensors.pop("W_dec")[:, None]
        if layer == 0:
            later = torch.zeros(D_TRANSCODER, 1, D_MODEL)
            later[1, 0, TOKEN] = 0.05
            W_dec = torch.cat([W_dec, later], 1)
        save_file({f"{name}_{layer}": value for name, value in tensors.items()}, folder / f"W_enc_{layer}.safetensors")
        save_file({f"W_dec_{layer}": W_dec}, folder / f"W_dec_{layer}.safetensors")
    (folder / "config.yaml").write_text("model_kind: cross_layer_transcoder\n")


def test_a_cross_layer_transcoder(tmp_path: Path, cli: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    overrides = planted_overrides(tmp_path)
    as_cross_layer(tmp_path / "transcoders")
    refused = cli("run", CONFIG, *overrides)
    assert refused.returncode == 2
    assert "the input hook is not named; set transcoder.input_hook" in refused.stderr
    hooks = ("transcoder.input_hook=mlp_in", "transcoder.output_hook=mlp_out")
    result = cli("run", CONFIG, *overrides, *hooks)
    assert result.returncode == 0, result.stderr
    with open_catalog(tmp_path / "store" / "catalog.duckdb") as connection:
        edges = connection.execute(
            "SELECT source_layer, source_feature, target_layer, target_feature FROM feature_edges"
        ).fetchall()
        promoted = connection.execute(
            "SELECT token_id, score FROM token_candidates WHERE side = 'output' AND (layer, feature) = (0, 1)"
        ).fetchall()
        quality = connection.execute("SELECT explained_variance FROM transcoder_quality ORDER BY layer").fetchall()
        hooks = connection.execute("SELECT feature_input_hook, feature_output_hook FROM checkpoints").fetchall()
    assert edges == [(0, 3, 1, 2)]
    assert promoted == [(TOKEN, pytest.approx(0.05))]
    assert quality[0][0] > 0.99
    assert 0.5 < quality[1][0] < quality[0][0]  # the model's own MLP does not write to TOKEN
    assert hooks == [("mlp_in", "mlp_out")]
