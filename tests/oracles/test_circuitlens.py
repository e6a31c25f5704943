"""Attribution graphs against circuit-tracer's, clusters and head scores against tdhook's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from interp.circuitlens.attribution import feature_targets
from interp.circuitlens.clusters import clustered
from interp.circuitlens.contributors import KINDS, Contributors
from interp.circuitlens.direct import direct_heads
from interp.circuitlens.frozen import Frozen, freeze
from interp.circuitlens.graph import Graph, GraphSettings, Probable, attribution_steps, finished, graph_scores, prune
from interp.circuitlens.linear import LinearModel, linear_model
from interp.circuitlens.settings import CircuitLensSettings
from interp.transcoder import Transcoder
from storage.formats import open_transcoders
from storage.models import open_model
from tests.conftest import ROOT
from tests.frozen_models import likeliest_ends
from tests.oracles.foreign import run

TOKENS = [0, 45, 300, 67, 512, 13, 99, 4]
DEMO = ROOT / "demo" / "checkpoint"

pytestmark = pytest.mark.oracle


def frozen_demo() -> tuple[LinearModel, Frozen, list[Transcoder]]:
    folder = open_model(DEMO / "model")
    model = folder.load()
    model.set_attn_implementation("eager")  # pyright: ignore
    release = open_transcoders(DEMO / "transcoders", "gpt2", None, None)
    coders = [release.read(layer).to(torch.float32) for layer in release.layers]
    linear = linear_model(model, folder.family, release.hooks)
    return linear, freeze(linear, coders.__getitem__, torch.tensor(TOKENS)), coders


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    output = tmp_path_factory.mktemp("graph") / "graph.safetensors"
    run("circuit_tracer_graph.py", DEMO / "model", DEMO / "transcoders", json.dumps(TOKENS), output)
    return load_file(output)


@pytest.fixture(scope="module")
def explained() -> tuple[Probable, Graph]:
    linear, frozen, coders = frozen_demo()
    found, ends = likeliest_ends(linear, frozen, 5, 0.9)
    settings = GraphSettings(max_features=None)
    return found, finished(attribution_steps(linear, frozen, coders.__getitem__, ends, settings, max_bytes=10**8))


@pytest.fixture(scope="module")
def ours(explained: tuple[Probable, Graph]) -> Graph:
    return explained[1]


def test_edges_are_circuit_tracers(theirs: dict[str, torch.Tensor], explained: tuple[Probable, Graph]) -> None:
    """All but those from the first token's features and errors, which circuit-tracer leaves out."""
    found, ours = explained
    assert found.token.tolist() == theirs["logits"].tolist()
    np.testing.assert_allclose(ours.ends.weight, theirs["probability"].numpy(), rtol=1e-4)
    place = {at: i for i, at in enumerate(zip(ours.layer, ours.position, ours.feature, strict=True))}
    features = np.array([place[tuple(at)] for at in theirs["active"].tolist()])
    assert len(features) == (ours.position > 0).sum()
    n, n_pos, n_layers, n_logits = len(features), len(TOKENS), ours.n_layers, ours.n_ends
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
    n, n_logits = len(layer), ours.n_ends
    edges = theirs["edges"].numpy()
    graph = ours._replace(
        layer=layer, feature=feature, position=position, activation=np.zeros(n, np.float32),
        edges=np.concatenate([edges[:n], edges[-n_logits:]]),
    )  # fmt: skip
    np.testing.assert_allclose(graph_scores(graph), theirs["scores"].numpy(), rtol=1e-4)
    pruned = prune(graph, 0.8, 0.95)
    assert (pruned.nodes == theirs["kept_nodes"].numpy()).all()
    kept = theirs["kept_edges"].numpy()
    assert (pruned.edges == np.concatenate([kept[:n], kept[-n_logits:]])).all()
    np.testing.assert_allclose(pruned.influence, theirs["influence"].numpy(), rtol=1e-3, atol=1e-4)


LAYER, POSITION = 2, 6


def attention_by_hand(frozen: Frozen, coder: Transcoder, features: list[int]) -> dict[str, torch.Tensor]:
    """Of the demo's GPT-2: a layer's pattern, values and output weights, and the gradients at what its attention wrote.

    By the module's own tensors and by automatic differentiation of the norm with its denominator held.
    """
    model: Any = open_model(DEMO / "model").load()
    model.set_attn_implementation("eager")
    block, seen = model.transformer.h[LAYER], {}
    block.attn.register_forward_hook(lambda _m, _a, output: seen.update(pattern=output[1][0]))
    block.attn.c_attn.register_forward_hook(lambda _m, _a, output: seen.update(qkv=output[0]))
    block.ln_2.register_forward_pre_hook(lambda _m, args: seen.update(resid_mid=args[0][0]))
    with torch.no_grad():
        model(frozen.tokens[None])
    n_heads, d_model = model.config.n_head, model.config.n_embd
    resid = seen["resid_mid"].detach().requires_grad_()
    centred = resid - resid.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + block.ln_2.eps).sqrt().detach()
    x = centred / scale * block.ln_2.weight + block.ln_2.bias
    read = x[POSITION] @ coder.W_enc[features].T
    gradients = [torch.autograd.grad(one, resid, retain_graph=True)[0] for one in read]
    values = seen["qkv"].chunk(3, -1)[2].unflatten(-1, (n_heads, -1))
    W_O = block.attn.c_proj.weight.detach().view(n_heads, -1, d_model)
    found = {"pattern": seen["pattern"], "values": values, "W_O": W_O, "gradients": torch.stack(gradients)}
    return {name: tensor.contiguous() for name, tensor in found.items()} | {"position": torch.tensor(POSITION)}


def test_head_scores_are_tdhooks(tmp_path: Path) -> None:
    linear, frozen, coders = frozen_demo()
    active = frozen.layers[LAYER].active
    features = active.feature[active.position == POSITION][:3]
    targets = feature_targets(linear, frozen, LAYER, coders[LAYER], features, torch.full_like(features, POSITION))
    ours = direct_heads(linear, frozen, targets)[LAYER].permute(2, 0, 1)
    given, output = tmp_path / "given.safetensors", tmp_path / "scores.safetensors"
    save_file(attention_by_hand(frozen, coders[LAYER], features.tolist()), given)
    run("tdhook_circuits.py", "heads", given, output)
    theirs = load_file(output)["scores"]
    assert (theirs.abs().amax((1, 2)) > 0.01).all()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def signatures_by_lot(seed: int) -> tuple[Contributors, np.ndarray]:
    """Of 100 samples: random sets around a few centres, with noise between, and where each fired."""
    random = np.random.default_rng(seed)
    centres = [random.choice(60, 8, replace=False) for _ in range(4)]
    rows = []
    for sample in range(100):
        members = {int(c) for c in centres[sample % 4] if random.random() < 0.8} if sample % 9 else set()
        members |= set(random.integers(0, 60, random.integers(0, 5)).tolist())
        rows += [(sample, *divmod(member, 30)) for member in sorted(members)]
    target, kind, unit = np.array(rows).T
    position = random.integers(30, 90, 100)
    source = np.where(kind == KINDS.index("head"), position[target] - unit % 7, position[target])
    share = np.ones(len(target))
    return Contributors(target, kind, unit % 4, unit, source, share, share), position


def test_clusters_are_tdhooks(tmp_path: Path) -> None:
    """Up to their names."""
    settings, ours, asked = CircuitLensSettings(clustering="dbscan"), [], []
    for seed in range(5):
        found, position = signatures_by_lot(seed)
        ours.append(clustered(found, position, settings, [0]).labels)
        sets: list[list[Any]] = [[] for _ in position]
        delta = found.position - position[found.target]
        for row in zip(found.target, found.kind, found.layer, found.unit, delta, strict=True):
            sets[row[0]].append([KINDS[row[1]], *(int(value) for value in row[2:])])
        of_settings = {name: getattr(settings, name) for name in ("min_frequency", "eps", "min_samples")}
        asked.append(json.dumps({"signatures": sets, **of_settings}))
    (tmp_path / "given.jsonl").write_text("\n".join(asked))
    run("tdhook_circuits.py", "clusters", tmp_path / "given.jsonl", tmp_path / "labels.jsonl")
    theirs = [np.array(json.loads(line)) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    for labels, expected in zip(ours, theirs, strict=True):
        assert len(set(labels.tolist())) > 2
        assert ((labels == -1) == (expected == -1)).all()
        assert ((labels[:, None] == labels) == (expected[:, None] == expected)).all()
