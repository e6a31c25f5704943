"""Other implementations on the shapes of `benchmarks.circuitlens`, which runs this by the oracles' Python.

    PYTHONPATH=. python benchmarks/circuitlens_peers.py MODEL TRANSCODERS [--graph N_POS MAX_FEATURES]

Prints one JSON object: circuit-tracer's milliseconds a target, batched by 32, without reading heads; and the seconds
that tdhook takes for head scores and clusters of 100 samples of one feature, whose patterns, values and gradients it is
given. With `--graph` instead the seconds and the peak memory of one whole graph.
"""

import argparse
import json
import time
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import torch
from circuit_tracer.attribution.attribute import attribute
from tdhook.attribution.circuit_clustering import cluster_circuit_artifacts
from tdhook.attribution.circuit_lens import CircuitLensArtifact, attention_contributions

from tests.oracles.circuit_tracer_graph import replacement_model

BATCH, N_BATCHES, N_SAMPLES, LAYERS = 32, 3, 100, (6, 11)


def targets_ms(model: Any, n_pos: int) -> dict[str, float]:
    """A prompt, then features of two layers spread over its tokens."""
    tokens = torch.randint(1, 1000, (n_pos,))
    began = time.perf_counter()
    context = model.setup_attribution(tokens)
    model.run_forward_pass(tokens, BATCH, context)
    found = {"prompt_s": time.perf_counter() - began}
    layers, positions, _ = context.activation_matrix.indices()
    for layer in LAYERS:
        of_layer = torch.nonzero(layers == layer)[:, 0]
        some = of_layer[torch.linspace(0, len(of_layer) - 1, BATCH * (1 + N_BATCHES)).long()]
        for at, batch in enumerate(some.split(BATCH)):
            if at == 1:  # the first one warms up
                began = time.perf_counter()
            context.compute_batch(layers[batch], positions[batch], context.encoder_vecs[batch])
        found[f"layer_{layer}_ms"] = 1e3 * (time.perf_counter() - began) / (BATCH * N_BATCHES)
    return found


def clusters_s(n_pos: int, n_layers: int = 12, n_heads: int = 12, d_head: int = 64) -> float:
    """Head scores of one feature's samples, the greatest as signatures, and their clusters."""
    d_model = n_heads * d_head
    pattern = torch.rand(n_heads, n_pos, n_pos).tril().softmax(-1)
    values, W_O = torch.randn(n_pos, n_heads, d_head), torch.randn(n_heads, d_head, d_model)
    gradient = torch.randn(n_pos, d_model)
    began = time.perf_counter()
    artifacts, least = [], 0.0
    for _ in range(N_SAMPLES):
        found = [
            each
            for layer in range(n_layers)
            for each in attention_contributions(pattern, values, W_O, gradient, layer=layer, target_position=n_pos - 1)
        ]
        least = least or sorted(abs(each.score) for each in found)[-16]
        artifacts.append(CircuitLensArtifact(11, 0, (n_pos - 1,), 1.0, (), tuple(found), ()))
    cluster_circuit_artifacts(artifacts, min_frequency=0.1, min_abs_score=least)
    return time.perf_counter() - began


def graph(model: Any, n_pos: int, max_features: int) -> dict[str, float]:
    tokens = torch.randint(1, 1000, (n_pos,))
    tokens[0] = 0  # the tokenizer's special one: without it theirs would be put before them
    began = time.perf_counter()
    attribute(tokens, model, batch_size=BATCH, max_feature_nodes=max_features)
    return {"graph_s": time.perf_counter() - began, "peak_rss_gb": getrusage(RUSAGE_SELF).ru_maxrss / 1e6}


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("transcoders", type=Path)
    parser.add_argument("--graph", type=int, nargs=2, metavar=("N_POS", "MAX_FEATURES"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = replacement_model(arguments.model, arguments.transcoders)
    if arguments.graph:
        print(json.dumps(graph(model, *arguments.graph)))
        return
    print(json.dumps({n_pos: {**targets_ms(model, n_pos), "clusters_s": clusters_s(n_pos)} for n_pos in (16, 64)}))


if __name__ == "__main__":
    main()
