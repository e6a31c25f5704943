"""WeightLens at GPT-2-small shapes, from Zarr to Parquet, beside the matrix products alone in the same run.

    python -m benchmarks.weightlens [--json] [--layers 0 6 11] [--features 2048] [--workers 2]

Random weights with planted outliers: 12 layers of 24,576 features, d_model 768, vocabulary 50,257. A `ratio` is the
stage's rate over the rate that the float32 products of the same shapes allow, all measured here, interleaved. `naive`
is one feature at a time, full scores and a sort, as a researcher's script does it: with the encoder's column read
strided from (d_model, d_transcoder), and with contiguous rows.
"""

import argparse
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.families import Norm
from interp.sparse import feature_tokens
from interp.transcoder import Transcoder
from interp.weightlens.settings import WeightLensSettings
from storage.checkpoints import finish, write_embeddings, write_layer, write_single_token
from storage.parts import read_parts
from storage.store import ShardKey, Store, shards
from tasks.project import project_shard

N_LAYERS, D_TRANSCODER, D_MODEL, D_VOCAB = 12, 24_576, 768, 50_257
SHARD = 2048
N_NAIVE = 12
CHECKPOINT = "gpt2-shapes"
PLANTED = 8
SETTINGS = WeightLensSettings(mode="paper", z_tokens=4.0, z_features=3.0)


def write_checkpoint(store: Store, last_layer: int) -> None:
    """Random weights up to a layer, with a few tokens planted in every encoder and decoder."""
    generator = torch.Generator().manual_seed(0)
    W_E, W_U = (torch.randn(D_VOCAB, D_MODEL, generator=generator) for _ in range(2))
    write_embeddings(store, CHECKPOINT, W_E, W_U, Norm(torch.ones(D_MODEL), None, 1e-5, centred=True))
    for layer in range(last_layer + 1):
        W_enc, W_dec = (torch.randn(D_TRANSCODER, D_MODEL, generator=generator) for _ in range(2))
        for weights, directions in ((W_enc, W_E), (W_dec, W_U)):
            tokens = torch.randint(D_VOCAB, (D_TRANSCODER, PLANTED), generator=generator)
            for column in range(PLANTED):
                weights += 0.12 * directions[tokens[:, column]]
        coder = Transcoder(W_enc, torch.zeros(D_TRANSCODER), W_dec, torch.zeros(D_MODEL), "relu")
        write_layer(store, CHECKPOINT, layer, coder, Norm(torch.ones(D_MODEL), None, 1e-5, centred=True), None)
        random = np.random.default_rng(layer)
        pairs = np.unique(random.integers(0, D_TRANSCODER * D_VOCAB, 45 * D_VOCAB))
        feature, token = np.divmod(pairs, D_VOCAB)
        active = feature_tokens(feature, token, np.ones(len(pairs), np.float32), D_TRANSCODER)
        write_single_token(store, CHECKPOINT, layer, active)
    attributes = {"feature_input_hook": "mlp_in", "feature_output_hook": "mlp_out", "norms_centred": True}
    sizes = {"n_layers": N_LAYERS, "d_transcoder": D_TRANSCODER, "n_tokens": D_VOCAB, "d_model": D_MODEL}
    finish(store, CHECKPOINT, {**attributes, **sizes, "activation": "relu", "k": None, "bos": 0})


def spread(work: Callable[[int], Any], n: int, workers: int) -> float:
    """Seconds to do `work(0 … n−1)` on so many threads."""
    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(n)))
    return time.perf_counter() - began


def gemm_seconds(layer: int, n_shards: int, workers: int) -> float:
    """The products of a layer's shards alone, in the stage's own blocking, operands in memory."""
    rows, columns = torch.randn(SHARD, D_MODEL), torch.randn(4096, D_MODEL)
    n_columns = 2 * D_VOCAB + layer * D_TRANSCODER

    def products(_: int) -> None:
        torch.get_num_threads()  # as tasks do: otherwise each thread takes every core
        out = torch.empty(256, len(columns))
        for start in range(0, n_columns, len(columns)):
            part = columns[: min(len(columns), n_columns - start)].T
            for at in range(0, SHARD, 256):
                torch.mm(rows[at : at + 256], part, out=out[:, : part.shape[1]] if part.shape[1] < 4096 else out)

    return spread(products, n_shards, workers)


def stage_seconds(store: Store, keys: list[ShardKey], workers: int, *, screen: bool) -> float:
    """The stage's own task, from Zarr to Parquet."""
    return spread(lambda i: project_shard.fn(store, CHECKPOINT, keys[i], SETTINGS, screen), len(keys), workers)


def warm_up(store: Store) -> None:
    """Compile and load everything once."""
    for screen in (False, True):
        key = ShardKey(f"warm-up-{screen}", 0, 0, 64)
        project_shard.fn(store, CHECKPOINT, key, SETTINGS, screen)


def differing_rows(store: Store, key: ShardKey) -> tuple[int, int]:
    """How many candidates and edges only one of the two ways found, and how many there are."""
    columns = {
        "token_candidates": ["feature", "side", "token_id"],
        "feature_edges": ["target_feature", "source_feature"],
    }
    differing = total = 0
    for table, names in columns.items():
        one, other = (
            set(
                zip(
                    *read_parts([store.part(table, key._replace(recipe=recipe))], names).to_pydict().values(),
                    strict=True,
                )
            )
            for recipe in ("float32", "bfloat16")
        )
        differing, total = differing + len(one ^ other), total + len(one)
    return differing, total


def naive_seconds(layer: int, *, strided: bool) -> float:
    """Seconds a feature of the one-at-a-time way."""
    W_E, W_U, W_dec = (torch.randn(n, D_MODEL) for n in (D_VOCAB, D_VOCAB, D_TRANSCODER))
    W_enc = torch.randn(D_MODEL, D_TRANSCODER) if strided else torch.randn(D_TRANSCODER, D_MODEL)

    def outliers(scores: Tensor, pool: int, threshold: float) -> None:
        for largest in (True, False):
            best = torch.topk(scores, pool, largest=largest).values
            z = (best - best.mean()) / best.std()
            (z.abs() > threshold).nonzero()

    began = time.perf_counter()
    for feature in range(N_NAIVE):
        encoder = W_enc[:, feature] if strided else W_enc[feature]
        outliers(W_E @ encoder, 1000, 4.0)
        outliers(W_U @ W_dec[feature], 1000, 4.0)
        for _ in range(layer):
            outliers(W_dec @ encoder, 100, 3.0)
    return (time.perf_counter() - began) / N_NAIVE


def measure(store: Store, layer: int, n_features: int, workers: int) -> dict[str, Any]:
    """One layer: the stage and the products alternate in small portions, so that noise meets both."""
    keys = shards("bench", layer, D_TRANSCODER, SHARD)[: max(workers, n_features // SHARD)]
    seconds = dict.fromkeys(("gemm", "float32", "bfloat16"), 0.0)
    for at in range(0, len(keys), workers):
        portion = keys[at : at + workers]
        seconds["gemm"] += gemm_seconds(layer, len(portion), workers)
        for recipe in ("float32", "bfloat16"):
            mine = [key._replace(recipe=recipe) for key in portion]
            seconds[recipe] += stage_seconds(store, mine, workers, screen=recipe == "bfloat16")
    differing, total = map(sum, zip(*(differing_rows(store, key) for key in keys), strict=True))
    n = len(keys) * SHARD
    flops = 2 * D_MODEL * (2 * D_VOCAB + layer * D_TRANSCODER)
    return {
        "layer": layer,
        "features": n,
        "workers": workers,
        "float32_gemm_gflops": round(n * flops / seconds["gemm"] / 1e9, 1),
        "float32_features_per_s": round(n / seconds["float32"], 1),
        "float32_ratio": round(seconds["gemm"] / seconds["float32"], 3),
        "bfloat16_features_per_s": round(n / seconds["bfloat16"], 1),
        "bfloat16_ratio": round(seconds["gemm"] / seconds["bfloat16"], 3),
        "outliers": total,
        "outliers_that_differ": differing,
        "naive_strided_features_per_s": round(1 / naive_seconds(layer, strided=True), 2),
        "naive_features_per_s": round(1 / naive_seconds(layer, strided=False), 2),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 6, 11])
    parser.add_argument("--features", type=int, default=4096, help="features a layer")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        store = Store(folder)
        write_checkpoint(store, max(arguments.layers))
        torch.set_num_threads(1)
        warm_up(store)
        for layer in arguments.layers:
            figures = measure(store, layer, arguments.features, arguments.workers)
            print(json.dumps(figures) if arguments.json else figures, flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
