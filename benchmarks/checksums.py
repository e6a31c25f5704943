"""What comparing a store with its checksums costs: `python -m benchmarks.checksums STORE`.

Times are of the processor, so that what else the machine does matters little. First a layer of GPT-2's size (24,576
features, d_model 768, float32) is written and read with checksums and without. Then everything that a finished store
holds is compared once, as a run that reads all of it would, beside what its stages took.
"""

import argparse
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from storage.arrays import WHOLE, with_checksum
from storage.catalog.database import check_database, open_catalog
from storage.checksums import DamagedError
from storage.damage import check
from storage.layout import Check, kind_of

FEATURES, D_MODEL, ROWS = 24_576, 768, 1024


def seconds(work: Callable[[], object], n: int = 15) -> float:
    """Of the processor, the least of some tries."""
    taken = []
    for _ in range(n):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken)


def layer(folder: Path) -> None:
    values = np.random.default_rng(0).random((FEATURES, D_MODEL), np.float32)
    found = {}
    for name, codecs in (("without", None), ("with", with_checksum())):
        array: Any = zarr.create_array(
            folder / name, shape=values.shape, chunks=(ROWS, D_MODEL), dtype="float32", compressors=codecs, config=WHOLE
        )
        array[...] = values
        found[name] = seconds(lambda array=array: [array[at : at + 2048] for at in range(0, FEATURES, 2048)])
    other = values[:512]
    product = seconds(lambda: [values[at : at + 2048] @ other.T for at in range(0, FEATURES, 2048)])
    more = found["with"] - found["without"]
    print(f"an array of {values.nbytes / 1e6:.0f} MB: read in {found['without']:.3f} s, with checksums {more:+.3f} s")
    print(f"one product with 512 rows takes {product:.3f} s: {more / (product + found['with']):.1%} of both together")


def store(root: Path) -> None:
    taken: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0.0])
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        kind = kind_of(path.relative_to(root).as_posix())
        if kind is None or kind.check not in (Check.STAMP, Check.CHUNK):
            continue
        began = time.process_time()
        try:
            check(path)
        except DamagedError as error:
            print(error)
        row = taken[kind.name]
        row[0] += 1
        row[1] += path.stat().st_size
        row[2] += time.process_time() - began
    for name, (n, n_bytes, spent) in taken.items():
        print(f"{name:28} {n:5} files {n_bytes / 1e6:8.2f} MB {1000 * spent:8.1f} ms")
    print(f"{'all':28} {1000 * sum(row[2] for row in taken.values()):34.1f} ms")
    catalog = root / "catalog.duckdb"
    print(f"the catalog, once a stage       {1000 * seconds(lambda: check_database(catalog), 3):34.1f} ms")
    with open_catalog(catalog) as connection:
        query = "SELECT stage, epoch(finished_at - started_at) FROM runs WHERE status = 'completed' ORDER BY started_at"
        for stage, spent in connection.execute(query).fetchall():
            print(f"stage {stage:22} {spent:8.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    folder = Path(tempfile.mkdtemp())
    try:
        layer(folder)
        store(parser.parse_args().store)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
