"""Attribution graphs against circuit-tracer's, clusters and head scores against tdhook's."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from interp.circuitlens.frozen import Frozen, LinearModel, freeze, linear_model
from interp.circuitlens.graph import Graph, attribution_graph, prune
from interp.transcoder import Transcoder
from storage.formats import open_transcoders
from storage.models import open_model
from tests.conftest import ROOT

ORACLES = os.environ.get("CIRCUIT_INSIGHTS_ORACLES")
TOKENS = [0, 45, 300, 67, 512, 13, 99, 4]
DEMO = ROOT / "demo" / "checkpoint"

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(ORACLES is None, reason="CIRCUIT_INSIGHTS_ORACLES names no Python; see `make oracles`"),
]


def frozen_demo() -> tuple[LinearModel, Frozen, list[Transcoder]]:
    folder = open_model(DEMO / "model")
    model = folder.load()
    model.set_attn_implementation("eager")  # pyright: ignore
    release = open_transcoders(DEMO / "transcoders", "gpt2", None, None)
    coders = [release.read(layer).to(torch.float32) for layer in range(release.n_layers)]
    linear = linear_model(model, folder.family, release.hooks)
    return linear, freeze(linear, coders.__getitem__, torch.tensor(TOKENS)), coders


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    output = tmp_path_factory.mktemp("graph") / "graph.safetensors"
    script = Path(__file__).with_name("circuit_tracer_graph.py")
    command = [ORACLES, script, DEMO / "model", DEMO / "transcoders", json.dumps(TOKENS), output]
    subprocess.run(list(map(str, command)), check=True, timeout=300)
    return load_file(output)


@pytest.fixture(scope="module")
def ours() -> Graph:
    linear, frozen, coders = frozen_demo()
    return attribution_graph(
        linear, frozen, coders.__getitem__, max_logits=5, logit_share=0.9, max_features=None, max_bytes=10**8
    )


def test_edges_are_circuit_tracers(theirs: dict[str, torch.Tensor], ours: Graph) -> None:
    """All but those from the first token's features and errors, which circuit-tracer leaves out."""
    assert ours.logits.tolist() == theirs["logits"].tolist()
    np.testing.assert_allclose(ours.probability, theirs["probability"].numpy(), rtol=1e-4)
    place = {at: i for i, at in enumerate(zip(ours.layer, ours.position, ours.feature, strict=True))}
    features = np.array([place[tuple(at)] for at in theirs["active"].tolist()])
    assert len(features) == (ours.position > 0).sum()
    n, n_pos, n_layers, n_logits = len(features), len(TOKENS), ours.n_layers, len(ours.logits)
    rows = np.concatenate([features, ours.n_features + np.arange(n_logits)])
    columns = np.concatenate([features, ours.n_features + np.arange((n_layers + 1) * n_pos)])
    found = ours.edges[rows][:, columns]
    edges = theirs["edges"].numpy()
    expected = np.concatenate([edges[:n], edges[-n_logits:]])[:, : n + (n_layers + 1) * n_pos]
    first_errors = n + np.arange(n_layers) * n_pos
    found[:, first_errors] = 0
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_pruning_is_circuit_tracers(theirs: dict[str, torch.Tensor], ours: Graph) -> None:
    layer, position, feature = theirs["active"].numpy().T
    n, n_logits = len(layer), len(ours.logits)
    edges = theirs["edges"].numpy()
    graph = ours._replace(
        layer=layer, feature=feature, position=position, activation=np.zeros(n, np.float32),
        edges=np.concatenate([edges[:n], edges[-n_logits:]]),
    )  # fmt: skip
    pruned = prune(graph, 0.8, 0.95)
    assert (pruned.nodes == theirs["kept_nodes"].numpy()).all()
    kept = theirs["kept_edges"].numpy()
    assert (pruned.edges == np.concatenate([kept[:n], kept[-n_logits:]])).all()
    np.testing.assert_allclose(pruned.influence, theirs["influence"].numpy(), rtol=1e-3, atol=1e-4)
