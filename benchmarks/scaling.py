"""The WeightLens stage with one worker and with two, as threads and as Dask processes.

    python -m benchmarks.scaling [--json] [--layers 2] [--runs dask-1 dask-2 threads-1 threads-2]

Some layers of GPT-2-small's shapes, ingested once; every run starts from that store, by the command line, with a server
at hand. `scheduler_share` is the part of the stage that handing its tasks out took: the seconds of as many tasks that
do nothing, on the same runner, over the stage's. A single thread may use every core for its products, a Dask worker
uses one; `gemm_times` is how many times as fast as one process two multiply matrices here, just before the run: more
than that two workers cannot gain. `same_rows` tells whether the catalog holds the same features, tokens, edges and
descriptions as after the first run. Needs 2 GB of disk, and half a GB a further layer.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from prefect import flow

from benchmarks.full_run import D_MODEL, D_TRANSCODER, D_VOCAB, stage_seconds, write_model, write_transcoders
from configs.engine import EngineConfig
from flows.costs.rates import gemm_flops
from flows.inputs.machine import n_workers
from flows.running.engine import engine_running, prefect_at_hand
from storage.catalog.database import open_catalog
from tasks.shard_task import shard_task
from tasks.weightlens.single_token import TOKENS_PER_BLOCK

CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"
SHARD = 2048
KEYS = {
    "token_candidates": "layer, feature, side, sign, token_id, validated, source_layer, source_feature",
    "feature_edges": "source_layer, source_feature, target_layer, target_feature",
    "descriptions": "layer, feature, method, text",
}


WARM_UP_S = 20.0
"""A task of this length for each worker: by then all of them have loaded what they need."""


@shard_task("nothing", "nothing for {seconds} s")
def nothing(seconds: float) -> None:
    """What handing out a task costs when the task costs nothing."""
    time.sleep(seconds)


@flow
def many(engine: EngineConfig, n: int) -> list[int]:
    """So many tasks of nothing; returns microseconds a task."""
    with engine_running(engine):
        for future in [nothing.submit(WARM_UP_S) for _ in range(n_workers(engine))]:
            future.result()
        began = time.perf_counter()
        for future in [nothing.submit(0.0) for _ in range(n)]:
            future.result()
        return [round(1e6 * (time.perf_counter() - began) / n)]


def prepared(folder: Path, n_layers: int) -> list[str]:
    """Write model and transcoders, ingest them; returns the settings of the runs."""
    write_model(folder / "model", n_layers)
    write_transcoders(folder / "transcoders", n_layers)
    (folder / "text.txt").write_text(" ".join(f"w{i * 37 % D_VOCAB}" for i in range(1, 2000)))
    settings = {
        "name": "gpt2-shapes",
        "model.path": folder / "model",
        "transcoder.path": folder / "transcoders",
        "transcoder.accept_poor_quality": "true",
        "corpus.source": folder / "text.txt",
        "quality_tokens": 512,
        "shard_size": SHARD,
        "weightlens": "{mode: paper, z_tokens: 4, z_features: 3}",
    }
    changes = [f"{name}={value}" for name, value in settings.items()]
    command("ingest", [*changes, f"store={folder / 'ingested'}"])
    return changes


def command(name: str, changes: list[str]) -> None:
    """A command of the command line, its output on standard error."""
    full = [sys.executable, "-m", "flows.cli", name, str(CONFIG), *changes]
    subprocess.run(full, check=True, stdout=sys.stderr, cwd=CONFIG.parents[1])


def fingerprint(store: Path) -> list[Any]:
    """What the catalog holds, without numbers that rounding may change."""
    with open_catalog(store / "catalog.duckdb") as connection:
        query = "SELECT count(*), bit_xor(hash({})) FROM {}"
        return [connection.execute(query.format(keys, table)).fetchall() for table, keys in KEYS.items()]


def measure(folder: Path, changes: list[str], runner: str, workers: int, n_layers: int) -> dict[str, Any]:
    """One run on a copy of the ingested store."""
    store, times = folder / "store", gemm_times()
    shutil.copytree(folder / "ingested", store)
    engine = EngineConfig.model_validate({"runner": runner, "workers": workers})
    command("weightlens", [*changes, f"store={store}", f"engine={{runner: {runner}, workers: {workers}}}"])
    seconds = stage_seconds(store)["weightlens_s"]
    n_tasks = -(-D_VOCAB // TOKENS_PER_BLOCK) + n_layers * (1 + 2 * -(-D_TRANSCODER // SHARD)) + 1
    with_nothing = many(engine, n_tasks)[0] / 1e6
    figures = {
        "benchmark": "scaling",
        "runner": runner,
        "workers": workers,
        "layers": n_layers,
        "features": n_layers * D_TRANSCODER,
        "weightlens_s": seconds,
        "features_per_s": round(n_layers * D_TRANSCODER / seconds, 1),
        "tasks": n_tasks,
        "scheduler_ms_per_task": round(1e3 * with_nothing, 1),
        "scheduler_share": round(n_tasks * with_nothing / seconds, 4),
        "gemm_times": times,
    }
    figures["fingerprint"] = fingerprint(store)
    shutil.rmtree(store)
    return figures


def gemm_times(rounds: int = 10) -> float:
    """How many times as fast as one process with one thread two multiply matrices, by turns."""
    alone = together = 0.0
    with get_context("spawn").Pool(2) as pool:
        pool.map(gemm_flops, [D_MODEL] * 2, chunksize=1)
        for _ in range(rounds):
            alone += pool.apply(gemm_flops, (D_MODEL,))
            together += sum(pool.map(gemm_flops, [D_MODEL] * 2, chunksize=1))
    return round(together / alone, 2)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--runs", nargs="+", default=["dask-1", "dask-2", "threads-1", "threads-2"])
    arguments = parser.parse_args()
    folder, first = Path(tempfile.mkdtemp()), None
    try:
        changes = prepared(folder, arguments.layers)
        with prefect_at_hand():
            for run in arguments.runs:
                runner, workers = run.split("-")
                figures = measure(folder, changes, runner, int(workers), arguments.layers)
                found = figures.pop("fingerprint")
                first = first or found
                figures["same_rows"] = found == first
                print(json.dumps(figures) if arguments.json else figures, flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
