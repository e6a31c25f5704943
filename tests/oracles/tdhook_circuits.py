"""Run by the oracles' Python: tdhook's head scores, draws and clusters.

heads INPUT OUTPUT     safetensors: `pattern`, `values`, `W_O`, `gradients` of a layer, `position`; writes `scores`
draws INPUT OUTPUT     JSON: activations, sample_size, n_seeds; writes how often each was drawn
clusters INPUT OUTPUT  JSON lines: signatures (lists of [kind, layer, index, Δ]), min_frequency, eps, min_samples;
                       writes lines of labels
"""

import json
import sys
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tdhook.attribution.circuit_clustering import (
    CircuitContributor,
    dbscan_circuit_signatures,
    filter_contributor_frequency,
    sample_activation_indices,
)
from tdhook.attribution.circuit_lens import attention_contributions


def heads(given: Path, output: Path) -> None:
    tensors = load_file(given)
    position = int(tensors["position"])
    n_heads, _, n_pos = tensors["pattern"].shape
    scores = torch.zeros(len(tensors["gradients"]), n_heads, n_pos)
    for at, gradient in enumerate(tensors["gradients"]):
        for each in attention_contributions(
            tensors["pattern"], tensors["values"], tensors["W_O"], gradient, layer=0, target_position=position
        ):
            scores[at, each.head_index, each.source_token] = each.score
    save_file({"scores": scores}, output)


def draws(given: Path, output: Path) -> None:
    asked = json.loads(given.read_text())
    drawn: Counter[int] = Counter()
    for seed in range(asked["n_seeds"]):
        drawn.update(sample_activation_indices(asked["activations"], asked["sample_size"], seed=seed))
    output.write_text(json.dumps([drawn[at] for at in range(len(asked["activations"]))]))


def clusters(given: Path, output: Path) -> None:
    lines = given.read_text().splitlines()
    output.write_text("\n".join(json.dumps(labels_of(json.loads(line))) for line in lines))


def labels_of(asked: dict) -> tuple[int, ...]:
    signatures = [
        frozenset(
            CircuitContributor("attention" if kind == "head" else kind, layer, index, delta if kind == "head" else None)
            for kind, layer, index, delta in signature
        )
        for signature in asked["signatures"]
    ]
    kept = filter_contributor_frequency(signatures, min_frequency=asked["min_frequency"])
    return dbscan_circuit_signatures(kept, eps=asked["eps"], min_samples=asked["min_samples"])


if __name__ == "__main__":
    {"heads": heads, "draws": draws, "clusters": clusters}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
