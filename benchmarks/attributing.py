"""Where the time of attributing a sequence goes, on the shapes of a real model.

    python -m benchmarks.attributing MODEL [--json] [--targets 10] [--n-pos 128]

MODEL is a folder of transformers; its transcoders are random TopK ones (`--d-transcoder`, `--k`), its targets features
active at random tokens and layers, as a corpus's samples are. One thread; the best of three. `products` says who does
float32 products: MKL (as PyTorch is set), or oneDNN where `interp.products` finds that as exact.
"""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from interp.capture import Hooks
from interp.circuitlens.attribution import Targets, contributions, feature_targets, read_until
from interp.circuitlens.contributors import significant
from interp.circuitlens.direct import direct_heads
from interp.circuitlens.effects import Activations, output_effects
from interp.circuitlens.frozen import freeze
from interp.circuitlens.linear import LinearModel, linear_model
from interp.circuitlens.qk import AttendedPairs, score_parts
from interp.circuitlens.settings import CircuitLensSettings
from interp.circuitlens.streams import read_streams
from interp.products import fast_products
from interp.transcoder import Transcoder
from storage.models import open_model

MAX_BYTES = 256_000_000
T = TypeVar("T")


def timed(name: str, into: dict[str, float], work: Callable[[], T]) -> T:
    """What the work returns; the best of its three times in milliseconds goes `into` the figures."""
    took, found = zip(*(_once(work) for _ in range(3)), strict=True)
    into[f"{name}_ms"] = round(1e3 * min(took), 1)
    return found[-1]


def _once(work: Callable[[], T]) -> tuple[float, T]:
    began = time.thread_time()
    found = work()
    return time.thread_time() - began, found


def parts(linear: LinearModel, coders: list[Transcoder], tokens: torch.Tensor, n_targets: int) -> dict[str, float]:
    """Milliseconds of each part of attributing some features of one sequence."""
    n_layers, draw, figures = linear.n_layers, np.random.default_rng(0), dict[str, float]()
    layer, position = np.sort(draw.integers(0, n_layers, n_targets)), draw.integers(1, len(tokens), n_targets)
    tokens = tokens[: position.max() + 1]
    whole, until = freeze(linear, coders.__getitem__, tokens), read_until(layer, position, n_layers)
    timed("forward", figures, lambda: read_streams(linear, tokens))
    timed("frozen_attention", figures, lambda: freeze(linear, coders.__getitem__, tokens, [0] * n_layers))
    frozen = timed("frozen", figures, lambda: freeze(linear, coders.__getitem__, tokens, until, keep_decoders=True))
    active = [whole.layers[at].active for at in layer]
    feature = torch.tensor([int(a.feature[a.first[p]]) for a, p in zip(active, position, strict=True)])
    at = torch.from_numpy(position)
    each = [
        feature_targets(linear, frozen, int(where), coders[where], feature[[i]], at[[i]])
        for i, where in enumerate(layer)
    ]
    targets = Targets(*(torch.cat(columns) for columns in zip(*each, strict=True)))
    found = timed("sweep", figures, lambda: list(contributions(linear, frozen, targets, max_bytes=MAX_BYTES)))
    heads = timed("heads", figures, lambda: [direct_heads(linear, frozen, targets.at(one.target)) for one in found])
    settings = CircuitLensSettings()
    timed(
        "significant", figures, lambda: [significant(frozen, *two, settings) for two in zip(found, heads, strict=True)]
    )
    firing = Activations(torch.from_numpy(layer), feature, at, torch.ones(n_targets))
    timed("effects", figures, lambda: output_effects(linear, frozen, coders.__getitem__, firing))
    attended = AttendedPairs(torch.tensor([0]), at[-1:], at[-1:] // 2)
    timed(
        "one_head_score", figures,
        lambda: list(score_parts(linear, frozen, int(layer[-1]), attended, n_keys=4, max_bytes=MAX_BYTES)),
    )  # fmt: skip
    return figures


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--targets", type=int, default=10)
    parser.add_argument("--n-pos", type=int, default=128)
    parser.add_argument("--d-transcoder", type=int, default=4608)
    parser.add_argument("--k", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = open_model(arguments.model)
    model: Any = folder.load()
    model.set_attn_implementation("eager")
    linear = linear_model(model, folder.family, Hooks("mlp_in", "mlp_out"))
    d_model, n = linear.final.weight.shape[0], arguments.d_transcoder

    def coder() -> Transcoder:
        W = (torch.randn(n, d_model) / d_model**0.5 for _ in range(2))
        return Transcoder(next(W), torch.zeros(n), next(W), torch.zeros(d_model), "topk", k=arguments.k)

    coders = [coder() for _ in range(linear.n_layers)]
    tokens = torch.randint(3, folder.n_tokens, (arguments.n_pos,))
    for products, how in (("as set", nullcontext()), ("fast", fast_products(d_model))):
        with how:
            found = parts(linear, coders, tokens, arguments.targets)
        figures = {"benchmark": "attributing", "products": products, "n_pos": arguments.n_pos, **found}
        print(json.dumps(figures) if arguments.json else figures, flush=True)


if __name__ == "__main__":
    main()
