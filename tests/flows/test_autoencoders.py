"""Autoencoders on the planted model, whose features are directions that it is known to write."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import save_file

from explorer.app import Settings, create_app
from storage.catalog.database import open_catalog
from tests.conftest import planted_overrides
from tests.planted import D_MODEL, D_VOCAB, HIDDEN, N_LAYERS

pytestmark = pytest.mark.whole

Cli = Callable[..., subprocess.CompletedProcess[str]]

CONFIG = "configs/demo.yaml"
STAGES = "[weightlens, activations, coactivation, circuitlens, describe, evaluate]"


def write_autoencoders(folder: Path, hook: str) -> None:
    """One feature a direction of the residual stream, as SAELens saves them."""
    eye = torch.eye(D_MODEL)
    for layer in range(N_LAYERS):
        place = folder / f"blocks.{layer}.{hook}"
        place.mkdir(parents=True)
        tensors = {"W_enc": eye, "b_enc": torch.full((D_MODEL,), -0.1), "W_dec": eye.clone()}
        save_file({**tensors, "b_dec": torch.zeros(D_MODEL)}, place / "sae_weights.safetensors")
        config = {
            "architecture": "standard", "d_in": D_MODEL, "d_sae": D_MODEL, "apply_b_dec_to_input": False,
            "normalize_activations": "none", "metadata": {"hook_name": f"blocks.{layer}.{hook}"},
        }  # fmt: skip
        (place / "cfg.json").write_text(json.dumps(config))


def overrides(folder: Path, hook: str) -> list[str]:
    write_autoencoders(folder / "autoencoders", hook)
    given = planted_overrides(folder, STAGES)
    return [
        *(one for one in given if not one.startswith("transcoder.path")),
        f"transcoder.path={folder / 'autoencoders'}",
        "transcoder.accept_poor_quality=true",
    ]


def rows(store: Path, query: str) -> list[tuple]:
    with open_catalog(store / "catalog.duckdb") as connection:
        return connection.execute(query).fetchall()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> tuple[Path, list[str]]:
    """Autoencoders of the residual stream after each block, through the whole pipeline."""
    folder = tmp_path_factory.mktemp("autoencoders")
    given = overrides(folder, "hook_resid_post")
    result = cli("run", CONFIG, *given)
    assert result.returncode == 0, result.stderr
    assert "left out: coactivation: autoencoders of several layers" in result.stderr.replace("\n", " ")
    return folder / "store", given


def test_features_fire_where_the_stream_holds_their_direction(done: tuple[Path, list[str]]) -> None:
    store, _ = done
    found = rows(store, "SELECT feature_input_hook, feature_output_hook FROM checkpoints")
    assert found == [("resid_post", "resid_post")]
    tokens = "SELECT DISTINCT layer, feature, token FROM contexts WHERE feature IN (5, 40) ORDER BY ALL"
    assert [(layer, feature, token.strip()) for layer, feature, token in rows(store, tokens)] == [
        (0, 5, "word5"), (0, HIDDEN, "word5"), (0, HIDDEN, "word7"),
        (1, 5, "word5"), (1, HIDDEN, "word5"), (1, HIDDEN, "word7"),
    ]  # fmt: skip
    assert rows(store, "SELECT max_activation FROM features WHERE layer = 0 AND feature = 6") == [(pytest.approx(0.9),)]


def test_tokens_are_read_and_written_where_the_stream_is(done: tuple[Path, list[str]]) -> None:
    store, _ = done
    found = "SELECT layer, feature, token_id FROM token_candidates WHERE side = '{}' AND sign = 1 AND feature < 40"
    expected = [(layer, token, token) for layer in range(N_LAYERS) for token in range(D_VOCAB)]
    assert sorted(rows(store, found.format("output"))) == expected
    assert sorted(rows(store, found.format("input") + " AND validated")) == expected
    assert rows(store, "SELECT count(*) FROM feature_edges") == [(0,)]


def test_the_planted_mlp_is_what_made_its_direction_fire(done: tuple[Path, list[str]]) -> None:
    """Layer 0's MLP writes the direction at tokens 5 and 7, and token 5 writes its own."""
    store, _ = done
    query = """SELECT DISTINCT kind, source_layer, relative_position FROM contributions
               WHERE feature = {} AND layer = {} AND share > 0.5 ORDER BY ALL"""
    assert rows(store, query.format(HIDDEN, 0)) == [("mlp", 0, 0)]
    assert rows(store, query.format(HIDDEN, 1)) == [("mlp", 0, 0)]
    assert rows(store, query.format(5, 1)) == [("token", None, 0)]
    assert rows(store, f"SELECT DISTINCT signature FROM clusters WHERE feature = {HIDDEN}") == [(["L0 MLP 0"],)]
    worst = "SELECT max(value) FROM scores WHERE metric = 'completeness_error'"
    assert rows(store, worst)[0][0] < 1e-4
    assert rows(store, "SELECT count(*) FROM contributions WHERE kind IN ('feature', 'error')") == [(0,)]


def test_what_fired_alone_is_described_and_judged(done: tuple[Path, list[str]]) -> None:
    store, _ = done
    query = "SELECT DISTINCT method FROM descriptions WHERE layer = 0 AND feature = 5 AND text ILIKE '%word5%'"
    assert {"weightlens", "weightlens+out", "maxact"} <= {method for (method,) in rows(store, query)}
    scores = "SELECT DISTINCT metric FROM scores WHERE value IS NOT NULL"
    assert {"clarity", "responsiveness", "faithfulness"} <= {metric for (metric,) in rows(store, scores)}


def test_stages_that_do_not_apply_say_so(done: tuple[Path, list[str]], cli: Cli) -> None:
    store, given = done
    planned = cli("plan", CONFIG, *given, "--json")
    answer = json.loads(planned.stdout)
    assert "coactivation" in answer["left_out"]
    assert "coactivation" not in {step["stage"] for step in answer["steps"]}
    assert not any(step["todo"] for step in answer["steps"])
    graph = cli("attribute", "word1 word5", "--output", store / "g.json", "--store", store)
    assert graph.returncode == 2
    assert "planted has autoencoders of resid_post: graphs and predictions" in graph.stderr.replace("\n", " ")
    alone = cli("coactivation", CONFIG, *given)
    assert alone.returncode == 2
    assert "coactivation: nothing to do for this checkpoint: autoencoders" in alone.stderr.replace("\n", " ")


def test_features_are_shown(done: tuple[Path, list[str]], cli: Cli) -> None:
    store, _ = done
    shown = cli("show", "0", "5", "--store", store)
    assert shown.returncode == 0, shown.stderr
    assert "word5" in shown.stdout
    ((checkpoint,),) = rows(store, "SELECT checkpoint_id FROM checkpoints")
    with TestClient(create_app(Settings(store / "catalog.duckdb")), base_url="http://127.0.0.1") as client:
        for page in (f"/c/{checkpoint}", f"/c/{checkpoint}/feature/0/5", f"/c/{checkpoint}/features"):
            assert client.get(page).status_code == 200


def test_features_of_an_mlps_output_have_no_input_side(tmp_path: Path, cli: Cli) -> None:
    """Layer 1's MLP writes direction 9 at tokens 5 and 7, which promotes token 9."""
    given = [*overrides(tmp_path, "hook_mlp_out")[1:], "stages=[weightlens, activations, circuitlens, describe]"]
    result = cli("run", CONFIG, *given)
    assert result.returncode == 0, result.stderr
    assert "left out: circuitlens: features read what an MLP wrote" in result.stderr.replace("\n", " ")
    store = tmp_path / "store"
    assert not list((store / "checkpoints").glob("*/single_token"))
    tokens = "SELECT DISTINCT token FROM contexts WHERE layer = 1 AND feature = 9 ORDER BY ALL"
    assert [token.strip() for (token,) in rows(store, tokens)] == ["word5", "word7"]
    assert rows(store, "SELECT DISTINCT side FROM token_candidates") == [("output",)]
    promoted = "SELECT text FROM descriptions WHERE layer = 1 AND feature = 9 AND method = 'weightlens+out'"
    assert rows(store, promoted) == [("promotes ‘word9’",)]
    reasons = "SELECT DISTINCT reason FROM failures WHERE stage = 'weightlens'"
    assert rows(store, reasons) == [("no_input_side",)]
    shown = cli("show", "1", "9", "--store", store)
    assert shown.returncode == 0, shown.stderr
