"""Exports of the demo, read back by the readers of the projects that they are for."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from flows.exchange import export_hub_dataset, export_to_delphi
from storage.catalog.published import open_published
from storage.exchange.neuronpedia import export_neuronpedia
from storage.store import Store
from tests.conftest import ROOT
from tests.oracles.foreign import run
from tests.storage.neuronpedia_tables import import_source

pytestmark = pytest.mark.oracle

MODEL = ROOT / "demo" / "checkpoint" / "model"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, cli: Callable[..., CompletedProcess[str]]) -> Store:
    """The store named by CIRCUIT_INSIGHTS_ORACLE_STORE, or a fresh run on the demo."""
    named = os.environ.get("CIRCUIT_INSIGHTS_ORACLE_STORE")
    if named:
        return Store(Path(named))
    root = tmp_path_factory.mktemp("demo") / "store"
    result = cli("run", "configs/demo.yaml", f"store={root}", "stages=[weightlens, activations, describe]")
    assert result.returncode == 0, result.stderr
    return Store(root)


def test_delphi_finds_every_sample_and_description(store: Store, tmp_path: Path) -> None:
    export_to_delphi(store, None, tmp_path / "exported")
    run("delphi_latents.py", tmp_path / "exported", MODEL, tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    with open_published(store.catalog) as connection:
        samples = connection.execute(
            """SELECT layer, feature, count(DISTINCT (sequence, position)), max(activation), arg_max(token, activation)
               FROM samples JOIN (SELECT layer, feature, sample, token FROM contexts) USING (layer, feature, sample)
               GROUP BY ALL"""
        ).fetchall()
        texts = dict(connection.execute("SELECT token_id, text FROM tokens").fetchall())
        n_described = connection.execute(
            "SELECT count(*) FROM (SELECT DISTINCT method, layer, feature FROM descriptions WHERE cluster = -1)"
        ).fetchall()[0][0]
    n_found = sum(len(latents) for latents in found["latents"].values())
    assert n_found == len(samples)
    n_same_token = 0
    for layer, feature, n, greatest, token in samples:
        n_there, there, token_id = found["latents"][f"h.{layer}.mlp"][str(feature)]
        assert n_there == n
        assert there == pytest.approx(greatest, rel=1e-3)
        n_same_token += texts[token_id] == token
    assert n_same_token > 0.95 * len(samples)  # two samples may be alike in half precision
    assert len(found["explanations"]) == n_described


def test_datasets_finds_every_table(store: Store, tmp_path: Path) -> None:
    export_hub_dataset(store, None, tmp_path / "exported")
    run("datasets_rows.py", tmp_path / "exported", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    with open_published(store.catalog) as connection:
        for table, n_rows in found.items():
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0] == n_rows, table
    assert {"samples", "descriptions", "checkpoints"} <= set(found)


def test_neuronpedia_takes_every_feature_and_description(store: Store, tmp_path: Path) -> None:
    with open_published(store.catalog) as connection:
        query = "SELECT checkpoint_id, d_transcoder FROM checkpoints"
        ((checkpoint, width),) = connection.execute(query).fetchall()
        for folder in export_neuronpedia(connection, checkpoint, tmp_path):
            found = import_source(tmp_path, folder.parent.name, folder.name)
            assert len(found.features) == width
            query = "SELECT count(*) FROM descriptions WHERE layer = ? AND cluster = -1"
            counts = connection.execute(query, [int(folder.name.split("-")[0])]).fetchall()[0]
            assert counts == (len(found.explanations),)
            assert len({row["index"] for row in found.activations}) > width / 2
