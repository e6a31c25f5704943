"""WeightLens from Zarr to Parquet, beside the matrix products alone in the same run.

    python -m benchmarks.weightlens [--json] [--shape gpt2-small] [--layers 0 6 11] [--features 4096] [--workers 1 2]
    python -m benchmarks.weightlens --table FILE [FILE …]

Random weights with planted outliers at a model's shapes. A `ratio` is the stage's rate over the rate that the float32
products of the same shapes allow, all measured here, interleaved; `planned` is what `plan` would expect. `naive` is one
feature at a time, full scores and a sort, as a researcher's script does it: with the encoder's column read strided from
(d_model, d_transcoder), and with contiguous rows. Only the layers measured are written, and the lowest, which stands
for the others. The second form turns what `--json` printed, here or by other benchmarks, into the tables of
docs/benchmarks.md.
"""

import argparse
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.random_checkpoint import random_attributes
from configs.engine import EngineConfig
from configs.load import load_config
from flows.costs.rates import projection_flops
from flows.inputs.machine import arithmetic
from interp.families import Norm
from interp.projection import ROW_BLOCK, Arithmetic
from interp.sparse import feature_tokens
from interp.transcoder import Transcoder
from interp.weightlens.settings import WeightLensSettings
from storage.block_cache import TILE_ROWS
from storage.catalog.parts import read_parts
from storage.checkpoints import finish, open_checkpoint, write_embeddings, write_layer, write_single_token
from storage.store import ShardKey, Store, shards
from tasks.weightlens.project import ProjectionJob, project_shard


class Shape(NamedTuple):
    """What the arithmetic depends on."""

    n_layers: int
    d_transcoder: int
    d_model: int
    d_vocab: int
    dtype: torch.dtype


SHAPES = {
    "gpt2-small": Shape(12, 24_576, 768, 50_257, torch.float32),
    "gemma-2-2b": Shape(26, 16_384, 2304, 256_000, torch.bfloat16),
    "llama-3.2-1b": Shape(16, 131_072, 2048, 128_256, torch.bfloat16),
}
SHARD = 2048
N_NAIVE = 12
CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"
CHECKPOINT = "shapes"
PLANTED = 8
ACTIVE = 45
"""Features that fire on a single token, of a layer."""

SETTINGS = WeightLensSettings(mode="paper", z_tokens=4.0, z_features=3.0)


def write_checkpoint(store: Store, shape: Shape, layers: list[int]) -> None:
    """Random weights with a few tokens planted in every encoder and decoder; layers not asked for are layer 0 again."""
    generator = torch.Generator().manual_seed(0)
    n_layers, d_transcoder, d_model, d_vocab, dtype = shape
    W_E, W_U = (torch.randn(d_vocab, d_model, generator=generator, dtype=dtype) for _ in range(2))
    norm = Norm(torch.ones(d_model), None, 1e-5, centred=True)
    write_embeddings(store, CHECKPOINT, W_E, W_U, norm)
    sizes = {"n_layers": n_layers, "d_transcoder": d_transcoder, "n_tokens": d_vocab, "d_model": d_model}
    finish(store, CHECKPOINT, random_attributes(CHECKPOINT, **sizes))
    checkpoint = open_checkpoint(store, CHECKPOINT)
    for layer in sorted({0, *layers}):
        W_enc, W_dec = (torch.randn(d_transcoder, d_model, generator=generator) for _ in range(2))
        for weights, directions in ((W_enc, W_E), (W_dec, W_U)):
            tokens = torch.randint(d_vocab, (d_transcoder, PLANTED), generator=generator)
            for column in range(PLANTED):
                weights += 0.12 * directions[tokens[:, column]].float()
        biases = torch.zeros(d_transcoder), torch.zeros(d_model)
        coder = Transcoder(W_enc.to(dtype), biases[0], W_dec.to(dtype), biases[1], "relu")
        write_layer(store, CHECKPOINT, layer, coder, norm, None)
        random = np.random.default_rng(layer)
        pairs = np.unique(random.integers(0, d_transcoder * d_vocab, ACTIVE * d_vocab))
        feature, token = np.divmod(pairs, d_vocab)
        active = feature_tokens(feature, token, np.ones(len(pairs), np.float32), d_transcoder)
        write_single_token(store, CHECKPOINT, layer, active)
    for layer in set(range(max(layers))) - {0, *layers}:
        checkpoint.layer_path(layer).symlink_to(checkpoint.layer_path(0))


def spread(work: Callable[[int], Any], n: int, workers: int) -> float:
    """Seconds to do `work(0 … n−1)` on so many threads."""
    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(n)))
    return time.perf_counter() - began


def gemm_seconds(shape: Shape, layer: int, n_shards: int, workers: int) -> float:
    """The float32 products of a layer's shards alone, in the stage's own blocking, operands in memory."""
    rows, columns = torch.randn(SHARD, shape.d_model), torch.randn(TILE_ROWS, shape.d_model)
    n_columns = 2 * shape.d_vocab + layer * shape.d_transcoder

    def products(_: int) -> None:
        torch.get_num_threads()  # as tasks do: otherwise each thread takes every core
        whole = torch.empty(ROW_BLOCK, TILE_ROWS)
        for start in range(0, n_columns, TILE_ROWS):
            part = columns[: n_columns - start].T
            out = whole if part.shape[1] == TILE_ROWS else torch.empty(ROW_BLOCK, part.shape[1])
            for at in range(0, SHARD, ROW_BLOCK):
                torch.mm(rows[at : at + ROW_BLOCK], part, out=out)

    return spread(products, n_shards, workers)


def stage_seconds(store: Store, keys: list[ShardKey], workers: int, how: Arithmetic) -> float:
    """The stage's own task, from Zarr to Parquet."""
    job = ProjectionJob(CHECKPOINT, SETTINGS, how)
    return spread(lambda i: project_shard.fn(store, job, keys[i]), len(keys), workers)


def warm_up(store: Store, screened: bool) -> None:
    """Compile and load everything once."""
    for screen in (False, True)[: 1 + screened]:
        key = ShardKey(f"warm-up-{screen}", 0, 0, 64)
        project_shard.fn(store, ProjectionJob(CHECKPOINT, SETTINGS, Arithmetic("cpu", screen)), key)


def differing_rows(store: Store, key: ShardKey, workers: int) -> tuple[int, int]:
    """How many candidates and edges only one of the two ways found, and how many there are."""
    columns = {
        "token_candidates": ["feature", "side", "token_id"],
        "feature_edges": ["target_feature", "source_feature"],
    }
    differing = total = 0
    for table, names in columns.items():
        parts = [store.part(table, key._replace(recipe=f"{recipe}-{workers}")) for recipe in ("float32", "bfloat16")]
        one, other = (set(zip(*read_parts([part], names).to_pydict().values(), strict=True)) for part in parts)
        differing, total = differing + len(one ^ other), total + len(one)
    return differing, total


def naive_seconds(shape: Shape, layer: int, *, strided: bool) -> float:
    """Seconds a feature of the one-at-a-time way, which takes every core."""
    d_transcoder, d_model, d_vocab = shape.d_transcoder, shape.d_model, shape.d_vocab
    W_E, W_U, W_dec = (torch.randn(n, d_model) for n in (d_vocab, d_vocab, d_transcoder))
    W_enc = torch.randn(d_model, d_transcoder) if strided else torch.randn(d_transcoder, d_model)

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


def planned_seconds(shape: Shape, layer: int, n_features: int, workers: int) -> float:
    """What `plan` would say of so many features, by its own sample of this machine's arithmetic."""
    settings = f"weightlens={{mode: {SETTINGS.mode}, z_tokens: {SETTINGS.z_tokens}, z_features: {SETTINGS.z_features}}}"
    config = load_config(CONFIG, [settings, f"engine.workers={workers}", "engine.bfloat16=off"])
    return n_features * flops(shape, layer) / projection_flops(shape.d_model, config, workers)


def flops(shape: Shape, layer: int) -> int:
    """Of the products that a feature of a layer takes."""
    return 2 * shape.d_model * (2 * shape.d_vocab + layer * shape.d_transcoder)


def measure(
    store: Store, shape: Shape, layer: int, n_features: int, workers: int, arithmetics: list[str]
) -> dict[str, Any]:
    """One layer: the stage and the products alternate in small portions, so that noise meets both."""
    keys = shards(f"bench-{workers}", layer, shape.d_transcoder, SHARD)[: max(workers, n_features // SHARD)]
    seconds = dict.fromkeys(("gemm", "planned", *arithmetics), 0.0)
    differing = total = 0
    for at in range(0, len(keys), workers):
        portion = keys[at : at + workers]
        seconds["planned"] += planned_seconds(shape, layer, len(portion) * SHARD, workers)
        seconds["gemm"] += gemm_seconds(shape, layer, len(portion), workers)
        for recipe in arithmetics:
            mine = [key._replace(recipe=f"{recipe}-{workers}") for key in portion]
            seconds[recipe] += stage_seconds(store, mine, workers, Arithmetic("cpu", recipe == "bfloat16"))
        for key in portion if len(arithmetics) == 2 else ():
            found = differing_rows(store, key, workers)
            differing, total = differing + found[0], total + found[1]
    n = len(keys) * SHARD
    figures: dict[str, Any] = {"layer": layer, "features": n, "workers": workers}
    figures["float32_gemm_gflops"] = round(n * flops(shape, layer) / seconds["gemm"] / 1e9, 1)
    figures["planned_features_per_s"] = round(n / seconds["planned"], 1)
    for recipe in arithmetics:
        figures[f"{recipe}_features_per_s"] = round(n / seconds[recipe], 1)
        figures[f"{recipe}_ratio"] = round(seconds["gemm"] / seconds[recipe], 3)
    if len(arithmetics) == 2:
        figures |= {"outliers": total, "outliers_that_differ": differing}
    return {**figures, "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)}


def table(files: list[Path]) -> str:
    """What `--json` printed, as Markdown: a table for each kind of row."""
    lines = [line for file in files for line in file.read_text().splitlines() if line.startswith("{")]
    rows = [{name: v for name, v in json.loads(line).items() if not isinstance(v, dict)} for line in lines]
    kinds: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(tuple(row), []).append(row)
    text = ""
    for names, alike in kinds.items():
        lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|" + "---|" * len(names)]
        lines += ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in alike]
        text += "\n" + "\n".join(lines) + "\n"
    return text.strip("\n")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--shape", choices=SHAPES, default="gpt2-small")
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 6, 11])
    parser.add_argument("--features", type=int, default=4096, help="features a layer")
    parser.add_argument("--workers", type=int, nargs="+", default=[2])
    parser.add_argument("--bfloat16", choices=("auto", "on", "off"), default="auto", help="also screened; see configs")
    parser.add_argument("--no-naive", action="store_true", help="leave the one-at-a-time way out")
    parser.add_argument("--table", type=Path, nargs="+", help="make tables of such output instead of measuring")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(arguments.table))
        return
    screened = arithmetic(EngineConfig.model_validate({"device": "cpu", "bfloat16": arguments.bfloat16})).screen
    shape, folder = SHAPES[arguments.shape], Path(tempfile.mkdtemp())
    try:
        store = Store(folder)
        writing = get_context("spawn").Process(target=write_checkpoint, args=(store, shape, arguments.layers))
        writing.start()  # in a process of its own, which leaves this one's peak memory alone
        writing.join()
        all_cores = torch.get_num_threads()
        torch.set_num_threads(1)
        warm_up(store, screened)
        for layer in arguments.layers:
            for workers in arguments.workers:
                figures = {
                    "benchmark": "weightlens",
                    "shape": arguments.shape,
                    **measure(
                        store, shape, layer, arguments.features, workers, ["float32", "bfloat16"][: 1 + screened]
                    ),
                }
                if not arguments.no_naive:
                    torch.set_num_threads(all_cores)
                    for name, strided in (("naive_strided", True), ("naive", False)):
                        seconds = naive_seconds(shape, layer, strided=strided)
                        figures[f"{name}_features_per_s"] = round(1 / seconds, 2)
                    torch.set_num_threads(1)
                print(json.dumps(figures) if arguments.json else figures, flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
