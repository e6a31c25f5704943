"""Targets a second of CircuitLens on GPT-2-small's shapes, and the share that bare products would take.

    python -m benchmarks.circuitlens --json

Weights are random: 12 layers, d_model 768, 24,576 features a layer of which 45 are active at a token. The roofline of a
jacobian target is its share of the products with values and outputs and with patterns, at the rate at which this
machine multiplies matrices of the same shapes.
"""

import argparse
import json
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from interp.capture import Hooks
from interp.circuitlens.attribution import contributions, direct_heads, feature_targets
from interp.circuitlens.frozen import Frozen, LinearModel, freeze, linear_model
from interp.families.gpt2 import GPT2
from interp.transcoder import Transcoder

N_LAYERS, D_MODEL, D_TRANSCODER, ACTIVE = 12, 768, 24_576, 45
BATCH = 128


def coder(layer: int) -> Transcoder:
    generator = torch.Generator().manual_seed(layer)
    W = torch.randn(D_TRANSCODER, D_MODEL, generator=generator) / D_MODEL**0.5
    b = torch.zeros(D_TRANSCODER)
    return Transcoder(W, b, W, torch.zeros(D_MODEL), "topk", k=ACTIVE)


def seconds(work, at_least: float) -> float:
    """Of one call, the best of several."""
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < at_least:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def measured(linear: LinearModel, frozen: Frozen, layer: int, coder: Transcoder, for_s: float) -> dict[str, float]:
    """Milliseconds a target in both modes, and the share of `jacobian` that its bare products take."""
    active, n_pos = frozen.layers[layer].active, frozen.n_pos
    some = torch.linspace(0, len(active.feature) - 1, BATCH).long()
    targets = feature_targets(linear, frozen, layer, coder, active.feature[some], active.position[some])
    jacobian = seconds(lambda: list(contributions(linear, frozen, targets, max_bytes=10**9, heads=True)), for_s)
    direct = seconds(lambda: direct_heads(linear, frozen, targets), for_s)
    g, W = torch.randn(n_pos * BATCH, D_MODEL), torch.randn(D_MODEL, D_MODEL)
    patterns, u = torch.randn(12, n_pos, n_pos), torch.randn(12, n_pos, BATCH * 64)
    products = seconds(lambda: (g @ W, g @ W, torch.bmm(patterns, u)), for_s) * (layer + 1)
    return {
        "jacobian_ms": 1e3 * jacobian / BATCH, "direct_ms": 1e3 * direct / BATCH,
        "roofline_share": products / jacobian, "n_threads": torch.get_num_threads(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="JSON lines")
    parser.add_argument("--seconds", type=float, default=3.0, help="to measure each figure")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=N_LAYERS, vocab_size=1000)).eval().requires_grad_(False)
    model.set_attn_implementation("eager")
    linear = linear_model(model, GPT2, Hooks("mlp_in", "mlp_out"))
    coders = [coder(layer) for layer in range(N_LAYERS)]
    for n_pos in (16, 64):
        began = time.perf_counter()
        frozen = freeze(linear, coders.__getitem__, torch.randint(0, 1000, (n_pos,)))
        prompt_s = time.perf_counter() - began
        for layer in (6, 11):
            figures = {"n_pos": n_pos, "layer": layer, "prompt_s": prompt_s}
            figures |= measured(linear, frozen, layer, coders[layer], arguments.seconds)
            print(json.dumps(figures) if arguments.json else figures)


if __name__ == "__main__":
    main()
