"""A release of which one layer is ingested, and the run that adds the other."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from circuit_insights import open_store
from explorer.app import Settings, create_app
from storage.catalog.database import open_catalog
from tests.conftest import planted_overrides

Cli = Callable[..., subprocess.CompletedProcess[str]]

CONFIG = "configs/demo.yaml"

BY_LAYER = ("features", "samples", "token_candidates", "descriptions", "scores", "transcoder_quality", "contributions")


@pytest.mark.whole
def test_one_layer_is_described_and_the_other_added_later(tmp_path: Path, cli: Cli) -> None:
    stages = "[weightlens, activations, coactivation, circuitlens, describe, evaluate]"
    overrides = [*planted_overrides(tmp_path, stages), "coactivation.min_support=1", "circuitlens.min_share=0.01"]
    (tmp_path / "transcoders" / "layer_0.safetensors").rename(tmp_path / "layer_0.safetensors")
    refused = cli("run", CONFIG, *overrides)
    assert refused.returncode == 2
    assert "found layers [1]. To read only these: transcoder.only_layers=[1]" in refused.stderr
    one = cli("run", CONFIG, *overrides, "transcoder.only_layers=[1]")
    assert one.returncode == 0, one.stderr
    catalog = tmp_path / "store" / "catalog.duckdb"
    with open_catalog(catalog) as connection:
        (checkpoint, layers), *others = connection.execute("SELECT checkpoint_id, layers FROM checkpoints").fetchall()
        assert (layers, others) == ([1], [])
        for table in BY_LAYER:
            found = connection.execute(f"SELECT DISTINCT layer FROM {table}").fetchall()
            assert found == [(1,)], table
        assert connection.execute("SELECT count(*) FROM feature_edges").fetchall() == [(0,)]
        errors = "SELECT count(*), min(score) FROM contributions WHERE kind = 'error' AND feature = 2"
        n_errors, score = connection.execute(errors).fetchall()[0]
        assert n_errors > 0
        assert score > 6  # what feature 3 of layer 0 wrote is now what that MLP wrote, of an activation of 6.5
    shown = cli("show", "0", "3", "--store", tmp_path / "store")
    assert shown.returncode == 2
    assert "layer 0 is not ingested: planted has layers 1" in shown.stderr
    with TestClient(create_app(Settings(catalog)), base_url="http://127.0.0.1") as client:
        overview = client.get(f"/c/{checkpoint}").text
        gone = client.get(f"/c/{checkpoint}/feature/0/3")
        there = client.get(f"/c/{checkpoint}/feature/1/0").text
        listed = client.get(f"/c/{checkpoint}/features").text
    assert '<td colspan="7" class="soft">not ingested</td>' in overview
    assert gone.status_code == 404
    assert "layer 0 is not ingested" in gone.text
    assert "/feature/0/" not in there
    assert "/feature/0/" not in listed
    with open_store(tmp_path / "store") as store, pytest.raises(ValueError, match="layer 0 is not ingested"):
        store.transcoder(0)

    (tmp_path / "layer_0.safetensors").rename(tmp_path / "transcoders" / "layer_0.safetensors")
    both = cli("run", CONFIG, *overrides)
    assert both.returncode == 0, both.stderr
    assert "copied from other checkpoints" in both.stdout
    with open_catalog(catalog) as connection:
        whole = connection.execute("SELECT checkpoint_id, layers FROM checkpoints WHERE len(layers) = 2").fetchall()
        assert whole[0][1] == [0, 1]
        same = """
            SELECT count(*) FROM features a JOIN features b USING (layer, feature)
            WHERE a.checkpoint_id = ? AND b.checkpoint_id = ? AND a.n_active = b.n_active
        """
        assert connection.execute(same, [checkpoint, whole[0][0]]).fetchall()[0][0] == 16
        edges = "SELECT DISTINCT source_layer, source_feature, target_layer, target_feature FROM feature_edges"
        assert connection.execute(edges).fetchall() == [(0, 3, 1, 2)]
