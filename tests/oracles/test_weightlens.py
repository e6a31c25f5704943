"""Candidates and edges of a whole run against tdhook's, computed from the files without this project's code."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from storage.catalog.database import open_catalog
from tests.oracles.foreign import run

ROUNDING = 1e-4
"""Z-scores agree to this, so a candidate nearer to the threshold may be on either side."""

pytestmark = pytest.mark.oracle


@pytest.fixture(params=["full", "paper"])
def store(request: pytest.FixtureRequest, tmp_path: Path, cli: Any) -> Path:
    """The store named by CIRCUIT_INSIGHTS_ORACLE_STORE, or a fresh run on the demo."""
    named = os.environ.get("CIRCUIT_INSIGHTS_ORACLE_STORE")
    if named:
        return Path(named)
    store = tmp_path / "store"
    result = cli(
        "run",
        "configs/demo.yaml",
        f"store={store}",
        "stages=[weightlens]",
        f"weightlens.mode={request.param}",
        "weightlens.z_tokens=2.5",
    )
    assert result.returncode == 0, result.stderr
    return store


def test_candidates_and_edges_are_tdhooks(store: Path, tmp_path: Path) -> None:
    with open_catalog(store / "catalog.duckdb") as connection:
        query = "SELECT model_name, transcoder_name, config FROM checkpoints JOIN runs USING (checkpoint_id)"
        model, transcoders, config = connection.execute(
            query + " WHERE stage = 'weightlens' ORDER BY started_at"
        ).fetchall()[-1]
        ours = connection.execute(
            """SELECT layer, feature, side, sign, token_id, score, z_score FROM token_candidates
               WHERE source_layer IS NULL"""
        ).fetchall()
        ours += connection.execute(
            """SELECT target_layer, target_feature, 'edge', source_layer, source_feature, virtual_weight, z_score
               FROM feature_edges"""
        ).fetchall()
    settings = json.loads(config)["weightlens"]
    assert settings["fold_norms"]
    assert settings["upstream"] == "all"
    theirs = _theirs(Path(model), Path(transcoders), settings, tmp_path)
    mine = {row[:5]: row[5:] for row in ours}
    thresholds = {"input": settings["z_tokens"], "output": settings["z_tokens"], "edge": settings["z_features"]}
    only = [key for key in mine.keys() ^ theirs.keys()]
    doubtful = [abs(abs((mine.get(key) or theirs[key])[1]) - thresholds[key[2]]) for key in only]
    both = mine.keys() & theirs.keys()
    difference = max(abs(mine[key][1] - theirs[key][1]) for key in both)
    print(f"{len(both)} the same, z-scores within {difference:.1e}; {len(only)} at the threshold only in one")
    assert len(both) > 1000
    assert max(doubtful, default=0) < ROUNDING
    assert difference < ROUNDING


def _theirs(model_path: Path, transcoders: Path, settings: dict[str, Any], folder: Path) -> dict[tuple, tuple]:
    model = AutoModelForCausalLM.from_pretrained(model_path, local_files_only=True, dtype="float32")
    state, centred = dict(model.named_parameters()), model.config.model_type == "gpt2"

    def centre(rows: Any) -> Any:
        return rows - rows.mean(1, keepdim=True) if centred else rows

    names = (
        ("transformer.ln_f", "transformer.h.{}.ln_2")
        if centred
        else ("model.norm", "model.layers.{}.post_attention_layernorm")
    )
    n_tokens = len(AutoTokenizer.from_pretrained(model_path, local_files_only=True))
    tensors = {
        "W_E": model.get_input_embeddings().weight[:n_tokens],
        "W_U": (model.get_output_embeddings().weight * state[f"{names[0]}.weight"])[:n_tokens],
    }
    for layer in range(model.config.num_hidden_layers):
        transcoder = load_file(transcoders / f"layer_{layer}.safetensors")
        W_dec = transcoder["W_dec"].float()
        tensors[f"encoder.{layer}"] = centre(transcoder["W_enc"].float() * state[f"{names[1].format(layer)}.weight"])
        tensors[f"decoder.{layer}"] = W_dec
        tensors[f"output_decoder.{layer}"] = centre(W_dec)
    weights, output = folder / "weights.safetensors", folder / "found.jsonl"
    save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, weights)
    asked = {
        "token_outlier_threshold": settings["z_tokens"],
        "feature_outlier_threshold": settings["z_features"],
        "token_pool_size": settings["token_pool"] if settings["mode"] == "paper" else None,
        "feature_pool_size": settings["feature_pool"] if settings["mode"] == "paper" else None,
    }
    run("tdhook_weights.py", weights, json.dumps(asked), output)
    found = {}
    with output.open() as file:
        for line in file:
            entry = json.loads(line)
            here = (entry["feature_layer"], entry["feature_index"])
            for name, side, sign in (
                ("embedding_positive", "input", 1),
                ("embedding_negative", "input", -1),
                ("output_positive", "output", 1),
                ("output_negative", "output", -1),
            ):
                for token in entry[name]:
                    found[*here, side, sign, token["index"]] = (token["score"], token["z_score"])
            for edge in entry["earlier_features"]:
                found[*here, "edge", edge["layer"], edge["feature_index"]] = (edge["score"], edge["z_score"])
    return found
