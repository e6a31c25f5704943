"""CircuitLens on GPT-2-small's shapes, beside bare products and other implementations, in one run.

    python -m benchmarks.circuitlens [--json] [--seconds 3] [--peers PYTHON] [--graphs 16 64]

Weights are random: 12 layers, d_model 768, 24,576 features a layer of which 45 are active at a token; a prompt of 16
and of 64 tokens, features of layers 6 and 11. The roofline of a jacobian target is its share of the products with
values and outputs and with patterns, over the tokens that its batch sees, at the rate at which this machine does them
for all targets and tokens at once.
`clusters_s` is what head scores, signatures and clusters of 100 samples of a feature take. `--graphs` adds the whole
graph of each prompt, in a process of its own for its peak memory; 64 tokens are cut to 7,500 features. PYTHON has
circuit-tracer and tdhook (see `make oracles`); `times` are how many times as long they take. Needs 2 GB of disk.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from interp.capture import Hooks
from interp.circuitlens.attribution import Targets, contributions, feature_targets, logit_targets
from interp.circuitlens.clusters import clustered
from interp.circuitlens.contributors import Contributors, significant
from interp.circuitlens.direct import direct_heads
from interp.circuitlens.frozen import Frozen, freeze
from interp.circuitlens.graph import (
    Ends,
    GraphSettings,
    attribution_steps,
    finished,
    likeliest,
    next_probability,
    prune,
)
from interp.circuitlens.linear import LinearModel, linear_model
from interp.circuitlens.settings import CircuitLensSettings
from interp.families.gpt2 import GPT2
from interp.transcoder import Transcoder
from storage.formats.circuit_tracer import folder_config

N_LAYERS, D_MODEL, D_TRANSCODER, ACTIVE = 12, 768, 24_576, 45
LAYERS = (6, 11)
BATCH, N_SAMPLES = 128, 100
MAX_BYTES = 10**9
GRAPHS = {16: 10**6, 64: 7500}
"""Features at most, by the length of the prompt."""


def write(folder: Path) -> None:
    """The model and the transcoders, in the formats that others read as well."""
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_layer=N_LAYERS, vocab_size=1000)).save_pretrained(folder / "model")
    coders = folder / "transcoders"
    coders.mkdir()
    for layer in range(N_LAYERS):
        W = torch.randn(D_TRANSCODER, D_MODEL) / D_MODEL**0.5
        tensors = {"W_enc": W, "W_dec": W.clone(), "b_enc": torch.zeros(D_TRANSCODER), "b_dec": torch.zeros(D_MODEL)}
        save_file(tensors, coders / f"layer_{layer}.safetensors")
    (coders / "config.yaml").write_text(folder_config("random", Hooks("mlp_in", "mlp_out"), "topk", ACTIVE))


def model_of(folder: Path) -> LinearModel:
    """The model that `write` left."""
    model: Any = GPT2LMHeadModel.from_pretrained(folder / "model").eval().requires_grad_(False)
    model.set_attn_implementation("eager")
    return linear_model(model, GPT2, Hooks("mlp_in", "mlp_out"))


def coder_of(folder: Path, layer: int) -> Transcoder:
    """A layer's transcoder, read from its file."""
    t = load_file(folder / "transcoders" / f"layer_{layer}.safetensors")
    return Transcoder(t["W_enc"], t["b_enc"], t["W_dec"], t["b_dec"], "topk", k=ACTIVE)


def seconds(work: Callable[[], Any], at_least: float) -> float:
    """Of one call, the best of several."""
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < at_least:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def targets_of(linear: LinearModel, frozen: Frozen, layer: int, coder: Transcoder, n: int) -> Targets:
    """Active features of a layer, spread over the tokens."""
    active = frozen.layers[layer].active
    some = torch.linspace(0, len(active.feature) - 1, n).long()
    return feature_targets(linear, frozen, layer, coder, active.feature[some], active.position[some])


def measured(linear: LinearModel, frozen: Frozen, layer: int, coder: Transcoder, for_s: float) -> dict[str, float]:
    """Milliseconds a target in both modes and of sources alone, and the share of `jacobian` that bare products take."""
    n_pos, targets = frozen.n_pos, targets_of(linear, frozen, layer, coder, BATCH)
    seen = float((targets.position + 1).sum()) / (n_pos * BATCH)
    jacobian = seconds(lambda: list(contributions(linear, frozen, targets, max_bytes=MAX_BYTES, heads=True)), for_s)
    sources = seconds(lambda: list(contributions(linear, frozen, targets, max_bytes=MAX_BYTES)), for_s)
    direct = seconds(lambda: direct_heads(linear, frozen, targets), for_s)
    g, W = torch.randn(n_pos * BATCH, D_MODEL), torch.randn(D_MODEL, D_MODEL)
    patterns, u = torch.randn(12, n_pos, n_pos), torch.randn(12, n_pos, BATCH * 64)
    products = seconds(lambda: (g @ W, g @ W, torch.bmm(patterns, u)), for_s) * (layer + 1) * seen
    return {
        "jacobian_ms": 1e3 * jacobian / BATCH,
        "without_heads_ms": 1e3 * sources / BATCH,
        "direct_ms": 1e3 * direct / BATCH,
        "roofline_share": products / jacobian,
    }


def clusters_s(linear: LinearModel, frozen: Frozen, coder: Transcoder, for_s: float) -> float:
    """Seconds to score the heads of 100 samples and to cluster them."""
    settings = CircuitLensSettings(clustering="dbscan", resamples=0)
    targets = targets_of(linear, frozen, N_LAYERS - 1, coder, N_SAMPLES)
    batches = list(contributions(linear, frozen, targets, max_bytes=MAX_BYTES))
    batches = [(found._replace(features=found.features[:0]), targets.at(found.target)) for found in batches]
    nothing = replace(frozen, layers=tuple(at._replace(active=_none(at.active)) for at in frozen.layers))
    position = targets.position.numpy()

    def work() -> np.ndarray:
        parts = [significant(nothing, found, direct_heads(linear, frozen, part), settings) for found, part in batches]
        kept = Contributors.joined(parts)
        return clustered(kept, position, settings, [0]).labels

    return seconds(work, for_s)


def _none(active: Any) -> Any:
    return active._replace(feature=active.feature[:0], position=active.position[:0], activation=active.activation[:0])


def graph(folder: Path, n_pos: int, max_features: int) -> dict[str, float]:
    """One whole graph, pruned. Transcoders are read as they are wanted, as the command `attribute` does."""
    linear, coder = model_of(folder), partial(coder_of, folder)
    began = time.perf_counter()
    frozen = freeze(linear, coder, torch.randint(1, 1000, (n_pos,)))
    top, W_U = likeliest(next_probability(linear, frozen, -1), 10, 0.95), linear.family.W_U(linear.model).float()
    last = torch.full_like(top.token, n_pos - 1)
    ends = Ends(logit_targets(linear, frozen, W_U[top.token] - W_U.mean(0), last), top.probability.numpy())
    settings = GraphSettings(max_features=max_features)
    found = finished(attribution_steps(linear, frozen, coder, ends, settings, max_bytes=3 * 10**8))
    graph_s = time.perf_counter() - began
    prune(found, 0.8, 0.98)
    return {"graph_s": graph_s, "peak_rss_gb": getrusage(RUSAGE_SELF).ru_maxrss / 1e6}


def by_itself(command: list[Any]) -> dict[str, Any]:
    """What a process of its own prints."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--seconds", type=float, default=3.0, help="to measure each figure")
    parser.add_argument("--peers", type=Path, help="Python of an environment with circuit-tracer and tdhook")
    parser.add_argument("--graphs", type=int, nargs="+", choices=GRAPHS, default=[], help="whole graphs as well")
    parser.add_argument("--graph", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.graph:
        folder, n_pos, most = arguments.graph
        print(json.dumps(graph(Path(folder), int(n_pos), int(most))))
        return

    def tell(figures: dict[str, Any]) -> None:
        rounded = {name: round(v, 4) if isinstance(v, float) else v for name, v in figures.items()}
        print(json.dumps(rounded) if arguments.json else rounded, flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        peer = [
            arguments.peers,
            Path(__file__).with_name("circuitlens_peers.py"),
            folder / "model",
            folder / "transcoders",
        ]
        peers = by_itself(peer) if arguments.peers else {}
        linear, coders = model_of(folder), [coder_of(folder, layer) for layer in range(N_LAYERS)]
        for n_pos in GRAPHS:
            began = time.perf_counter()
            frozen = freeze(linear, coders.__getitem__, torch.randint(1, 1000, (n_pos,)))
            prompt_s = time.perf_counter() - began
            theirs = peers.get(str(n_pos), {})
            shared = {"n_threads": torch.get_num_threads(), "n_pos": n_pos}
            for layer in LAYERS:
                found = measured(linear, frozen, layer, coders[layer], arguments.seconds)
                figures = {"benchmark": "circuitlens targets", **shared, "layer": layer, "prompt_s": prompt_s, **found}
                if theirs:
                    figures["circuit_tracer_ms"] = ms = theirs[f"layer_{layer}_ms"]
                    for name in ("jacobian", "without_heads", "direct"):
                        figures[f"{name}_times"] = ms / found[f"{name}_ms"]
                tell(figures)
            figures = {"benchmark": "circuitlens clusters", **shared}
            figures["clusters_s"] = clusters_s(linear, frozen, coders[-1], arguments.seconds)
            if theirs:
                figures |= {"tdhook_s": theirs["clusters_s"], "times": theirs["clusters_s"] / figures["clusters_s"]}
            tell(figures)
        del linear, coders
        for n_pos in arguments.graphs:
            most = GRAPHS[n_pos]
            own = by_itself([sys.executable, "-m", "benchmarks.circuitlens", "--graph", folder, n_pos, most])
            figures = {"benchmark": "circuitlens graph", "n_pos": n_pos, "max_features": most, **own}
            if arguments.peers:
                theirs = by_itself([*peer, "--graph", n_pos, most])
                figures |= {f"circuit_tracer_{name}": value for name, value in theirs.items()}
                figures["times"] = theirs["graph_s"] / own["graph_s"]
            tell(figures)


if __name__ == "__main__":
    main()
