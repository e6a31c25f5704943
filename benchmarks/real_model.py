"""A real model from its folder through every stage, each beside its floor.

    python -m benchmarks.real_model CONFIG [--run] [--out FILE] [key=value …]

    python -m benchmarks.real_model configs/smollm2-135m.yaml --run model.path=FOLDER corpus.source=TEXTS.jsonl

With `--run` the command line first does what is left of the configuration, training included, as a user would have it.
Then each stage that the store's table `runs` has as completed gives a line of JSON: the seconds that it took, and its
floor, which is its matrix products at the rate of large float32 products (of a core, by processor time, times workers),
and what it writes at the rate at which this disk takes it, both measured now. A stage of sums and words has next to no
products, and no ratio. Shards that were taken over and steps that an earlier run had done make a stage faster than its
floor: the figures are for a store that was empty.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from configs.load import load_config
from configs.run import RunConfig
from flows.costs.plan import TRAINING
from flows.costs.rates import Cost, Rates
from flows.costs.sizes import sizes_of
from flows.costs.training import training_costs
from flows.describe_checkpoint import stages
from flows.inputs.checkpoint_plan import identify, open_inputs
from flows.inputs.machine import n_workers
from interp.products import fast_products
from storage.catalog.database import open_catalog

WRITTEN_BYTES = 200_000_000
"""What is written to learn how fast the disk takes it."""

LEAST_S = 1.0
"""A stage with fewer seconds of products is not one of products."""


def disk_rate(folder: Path) -> float:
    """Bytes a second that a disk takes, until they are on it."""
    data = torch.randint(256, (WRITTEN_BYTES,), dtype=torch.uint8).numpy().tobytes()
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return WRITTEN_BYTES / (time.perf_counter() - began)


def core_rate(d_model: int) -> float:
    """Operations a second of one core's time, in large float32 products: what else runs here counts little."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    rows, columns = torch.randn(1024, d_model), torch.randn(4096, d_model)
    with fast_products(d_model):
        torch.mm(rows, columns.T)
        began = time.thread_time()
        for _ in range(20):
            torch.mm(rows, columns.T)
        took = time.thread_time() - began
    torch.set_num_threads(before)
    return 20 * 2 * d_model * len(rows) * len(columns) / took


def floors(config: RunConfig) -> Iterator[tuple[str, float, float]]:
    """(stage, seconds of its products, seconds of its writing), of a store that is empty."""
    plan = identify(open_inputs(config))
    sizes, workers = sizes_of(plan), n_workers(config.engine)
    rate = core_rate(sizes.d_model) * min(workers, os.cpu_count() or 1)
    rates, disk = Rates(rate, rate, slowness=0.0), disk_rate(plan.store.root)
    by_stage: dict[str, list[Cost]] = {
        stage.name: list(stage.costs(sizes, config, rates).values()) for stage in stages(config)
    }
    if config.transcoder.train is not None:
        by_stage[TRAINING] = [training_costs(sizes, config, rates)[1]]
    for name, costs in by_stage.items():
        yield name, sum(one.seconds for one in costs), sum(one.disk_bytes for one in costs) / disk


def lines(config: RunConfig) -> Iterator[dict[str, object]]:
    """A line a stage, in the order in which they ended."""
    plan = identify(open_inputs(config))
    floor = {name: (products, writing) for name, products, writing in floors(config)}
    query = """SELECT stage, arg_max(actual_s, finished_at), max(finished_at) AS ended FROM runs
               WHERE status = 'completed' AND actual_s IS NOT NULL AND (checkpoint_id = ? OR stage = ?)
               GROUP BY stage ORDER BY ended"""
    with open_catalog(plan.store.catalog) as connection:
        took = connection.execute(query, [plan.checkpoint_id, TRAINING]).fetchall()
    for stage, seconds, _ in took:
        if stage in floor:
            products, writing = floor[stage]
            share = seconds / (products + writing) if products >= LEAST_S else None
            yield {
                "benchmark": "real model", "model": config.name, "stage": stage, "workers": n_workers(config.engine),
                "seconds": round(seconds, 1), "products_s": round(products, 1), "writing_s": round(writing, 1),
                "times_floor": None if share is None else round(share, 2),
            }  # fmt: skip


def main() -> None:
    """Run if asked, then print a line a stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--run", action="store_true", help="do what is left of the configuration first")
    parser.add_argument("--out", type=Path, help="write the lines here too")
    arguments, overrides = parser.parse_known_args()
    if arguments.run:
        command = [sys.executable, "-m", "flows.cli", "run", str(arguments.config), *overrides]
        subprocess.run(command, check=True, stdout=sys.stderr)
    found = [json.dumps(line) for line in lines(load_config(arguments.config, overrides))]
    print("\n".join(found))
    if arguments.out is not None:
        arguments.out.write_text("\n".join(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
