"""Flip single bits of a finished store, and do each time what reads the file: is any of them taken for data?

    python -m tests.bit_flips FOLDER [--flips 200] [--seed 0] [--after 0]

makes a store of the demo's checkpoint in FOLDER (with settings that make it small), unless there is one, and prints
what each flip led to, by kind of file. A flip is followed by all stages, of which those have to work again whose files
were written after the flipped one, with a catalog made anew; then every table is read. It ends with exit code 1 if a
flip led to other tables and no error. `--after` leaves out the first ones, which were done before.

Stages are done here without Prefect, which would take a second each time.
"""

import argparse
import os
import random
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from configs.load import load_config
from configs.run import RunConfig
from flows.describe_checkpoint import stages
from flows.inputs.checkpoint_plan import identify, open_inputs
from flows.reports.card import feature_card
from flows.running.in_process import with_catalog_mended
from storage.catalog.published import open_published, publish
from storage.catalog.tables import TABLES
from storage.checksums import DamagedError
from storage.layout import KINDS, Check, Kind, kind_of, placed
from storage.shared_shards import ReuseCount
from storage.store import Store
from tasks.shard_task import ShardTask

SMALL = (
    "corpus.max_tokens=20000", "shard_size=512", "activations.keep=all", "circuitlens.features_per_layer=6",
    "circuitlens.samples_per_feature=12", "circuitlens.ablated_features=1", "describe.features_per_layer=40",
    "evaluate.how.features_per_layer=4", "evaluate.how.n_texts=60", "evaluate.how.n_rated=20",
    "evaluate.how.n_synthetic=4",
    "evaluate.how.faithfulness={features_per_layer: 1, n_prompts: 4, factors: [0.0, 10.0]}",
)  # fmt: skip
"""What makes the demo small: every kind of file is there, and a whole run takes a minute."""

VOLATILE = {"run_id", "created_at", "ingested_at"}


class Flip(NamedTuple):
    """One flipped bit, and what followed."""

    kind: Kind
    path: str
    """From the store's root."""
    bit: int
    said: str | None
    """The error; None if there was none."""
    is_same: bool
    """Whether every table was as without the flip."""


class Finished:
    """A future of work that is done."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def result(self) -> Any:
        return self.value


@contextmanager
def without_prefect() -> Iterator[None]:
    """Tasks are done at once, where they are handed out, nothing is shown in Prefect's pages, and no file is waited for
    until it would survive a power cut."""

    def submit(task: ShardTask[..., Any], *args: Any, **kwargs: Any) -> Any:
        return Finished(task.fn(*args, **kwargs))

    with ExitStack() as stack:
        stack.enter_context(patch("storage.store.write_through", lambda _: None))
        stack.enter_context(patch.object(ShardTask, "submit", submit))
        stack.enter_context(patch.object(ShardTask, "__call__", ShardTask.fn))
        for module in [module for name, module in sys.modules.items() if name.startswith("flows.")]:
            for name in ("create_table_artifact", "create_markdown_artifact"):
                if hasattr(module, name):
                    stack.enter_context(patch.object(module, name, lambda *_, **__: None))
            if hasattr(module, "wait_for_all"):
                done = patch.object(module, "wait_for_all", lambda futures, _: [one.result() for one in futures])
                stack.enter_context(done)
        yield


def run(config: RunConfig) -> None:
    """Do all stages that are not done yet."""
    plan = identify(open_inputs(config))
    store = plan.store
    store.root.mkdir(parents=True, exist_ok=True)
    for stage in stages(config):
        if not with_catalog_mended(store, lambda stage=stage: stage.is_done(plan)):
            stage.run(plan, "run", ReuseCount())
            stage.load(plan, "run")
    publish(store.catalog)


def tables(store: Store) -> dict[str, tuple[Any, ...]]:
    """Of every table as readers see it: its number of rows, and sums over hashes of them, without what names a run or a
    time. A feature's card is read as well."""
    found = {}
    with open_published(store.catalog) as connection:
        for table in TABLES.values():
            columns = ", ".join(name for name in table.arrow.names if name not in VOLATILE)
            row = f"hash(row({columns}))"
            query = f"SELECT count(*), bit_xor({row}), sum({row}) FROM {table.name}"
            found[table.name] = connection.execute(query).fetchall()[0]
    list(feature_card(store.catalog, 1, 2, None))
    return found


def flips(base: Store, config: Callable[[Path], RunConfig], numbers: range, seed: int, room: Path) -> Iterator[Flip]:
    """Flip bits, one after the other, each in a copy of a finished store; kinds of files take turns. The numbers begin
    anywhere: a bit is drawn whether or not it is flipped."""
    draw, expected = random.Random(seed), tables(base)
    files = files_by_kind(base)
    names = list(files)
    for at in range(numbers.stop):
        name = names[at % len(names)]
        kind, path = next(kind for kind in KINDS if kind.name == name), draw.choice(files[name])
        bit = draw.randrange(8 * (base.root / path).stat().st_size)
        if at not in numbers:
            continue
        store = Store(room / f"flip{at}")
        copy_until(base, store, path)
        flip(store.root / path, bit)
        said, is_same = None, True
        try:
            run(config(store.root))
            is_same = tables(store) == expected
        except DamagedError as error:
            said = str(error).replace(str(store.root), "STORE")
        except ValueError as error:
            said = f"{type(error).__name__}: {error}".replace(str(store.root), "STORE")
        shutil.rmtree(store.root)
        yield Flip(kind, path, bit, said, is_same)


def files_by_kind(store: Store) -> dict[str, list[str]]:
    """The files of a store that a computation or reader may read, by the name of their kind."""
    found: dict[str, list[str]] = defaultdict(list)
    for file in sorted(store.root.rglob("*")):
        path = file.relative_to(store.root).as_posix()
        kind = kind_of(path) if file.is_file() and file.stat().st_size else None
        if kind is not None and kind.check is not Check.NONE:
            found[kind.name].append(path)
    return dict(found)


def flip(path: Path, bit: int) -> None:
    """Change one bit, in a file of its own: the copies share theirs."""
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.unlink()
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def copy_until(base: Store, store: Store, flipped: str) -> None:
    """Copy what was written until a file was, so that what follows from it has to be made again, and is read again.

    Of a catalog everything is copied: it is read where it is.
    """
    units = defaultdict(list)
    for file in base.root.rglob("*"):
        found = placed(file) if file.is_file() and file.name != "lock" else None
        if found is not None:
            units[found.unit].append(file)
    own = placed(base.root / flipped)
    assert own is not None
    is_catalog, after = own.kind.check is Check.DUCKDB, made_from(own.kind)
    last = max(file.stat().st_mtime_ns for file in units[own.unit])
    for unit, files in units.items():
        kind = kind_of(files[0].relative_to(base.root).as_posix())
        assert kind is not None
        later = kind.name in after or max(file.stat().st_mtime_ns for file in files) > last
        if kind.check is Check.DUCKDB or kind.name == "search index":
            later = not is_catalog
        if unit == own.unit or not later:
            for file in files:
                target = store.root / file.relative_to(base.root)
                target.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copy2 if file.suffix == ".duckdb" else os.link)(file, target)


def made_from(kind: Kind) -> set[str]:
    """Kinds that follow from a kind, itself left out."""
    found: set[str] = set()
    while True:
        more = {other.name for other in KINDS if {kind.name, *found} & set(other.made_from)} - found - {kind.name}
        if not more:
            return found
        found |= more


def summary(found: Sequence[Flip]) -> str:
    """By kind of file: flips, those that were told, those without effect, those that were silent; and an example."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    examples: dict[str, str] = {}
    for one in found:
        counts[one.kind.name]["told" if one.said else "same" if one.is_same else "SILENT"] += 1
        if one.said:
            examples.setdefault(one.kind.name, one.said)
    lines = [f"{'kind':28} {'flips':>5} {'told':>5} {'no effect':>9} {'silent':>6}  an example"]
    for name, count in counts.items():
        numbers = f"{sum(count.values()):5} {count['told']:5} {count['same']:9} {count['SILENT']:6}"
        lines.append(f"{name:28} {numbers}  {examples.get(name, '')}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--after", type=int, default=0)
    arguments = parser.parse_args()

    def config(store: Path) -> RunConfig:
        return load_config(Path("configs/demo.yaml"), [f"store={store}", "engine.workers=1", *SMALL])

    base, began = Store(arguments.folder / "base"), time.monotonic()
    with without_prefect():
        run(config(base.root))
        print(f"store: {base.root}, {time.monotonic() - began:.0f} s", flush=True)
        found = []
        for one in flips(base, config, range(arguments.after, arguments.flips), arguments.seed, arguments.folder):
            found.append(one)
            outcome = one.said or ("no effect" if one.is_same else "SILENT: OTHER TABLES")
            number = arguments.after + len(found)
            print(f"{number:4} {time.monotonic() - began:6.0f} s  {one.path} bit {one.bit}: {outcome}", flush=True)
    print(summary(found))
    return int(any(not one.is_same for one in found))


if __name__ == "__main__":
    sys.exit(main())
