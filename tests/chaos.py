"""All that can go wrong, at random moments; in the end the catalog of a run that nothing disturbed.

    python -m tests.chaos [--kills 50] [--seed 0]          or: make chaos

The planted model is described by every stage, with threads and with Dask workers, by a Prefect server at hand or by one
of the run's own. Meanwhile one thing after another is done to it, chosen by chance:

    kill        the run is killed with -9
    loader      likewise, at the moment at which something of a transaction is on disk
    worker      a Dask worker is killed with -9
    server      the Prefect server is killed with -9 and started again
    disk        the disk is full for a while (needs root, to mount a small one)
    two         two runs on one store, one of them killed with -9
    clock       every file of the store and of the model is of another time

After some of this the store is run to its end, its catalog compared with the undisturbed one, and a new store begun,
until there were enough kills. Prints one line of JSON; ends with 1 if a catalog differed or anything was left over.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import psutil

from tests.conftest import ROOT, cli_environment, planted_overrides, unused_port
from tests.flows.contents import contents

STAGES = "[weightlens, activations, coactivation, circuitlens, describe, evaluate]"
SMALL = [
    "corpus.n_pos=16",
    "corpus.held_out=0.4",
    "activations.n_samples=10",
    "evaluate.how.n_texts=20",
    "evaluate.how.text_tokens=10",
    "evaluate.how.faithfulness.n_prompts=4",
    "evaluate.how.faithfulness.new_tokens=3",
    "evaluate.how.faithfulness.prompt_tokens=3",
]
PATIENCE_S = 600
DISK = "64m"


class Chaos:
    """A place for models, stores and servers, and all processes that were ever started in it."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder, self.chance = folder, chance
        self.happened: Counter[str] = Counter()
        self.seen: dict[int, psutil.Process] = {}
        self.port = unused_port()
        self.environment = cli_environment(folder / "prefect")
        self.overrides = [*planted_overrides(folder, STAGES), *SMALL]
        self.server = self.start_server()
        self.store = self.undisturbed = folder / "undisturbed"
        began = time.monotonic()
        self.finish()
        self.usual_s = time.monotonic() - began
        self.expected = contents(self.undisturbed / "catalog.duckdb")

    def start_server(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        log = (self.folder / "server.log").open("ab")
        server = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, cwd=ROOT)
        give_up = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up:
            with suppress(OSError), urlopen(f"{self.url}/health", timeout=5):
                break
            time.sleep(0.2)
        self.note(server.pid)
        return server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def start(self, *overrides: str) -> subprocess.Popen[bytes]:
        """A run of the store, by threads or Dask, with the server at hand or one of its own."""
        ways = (["engine.runner=threads"], ["engine.runner=dask", "engine.workers=2"])
        way = list(overrides) or ways[self.chance.random() < 0.2]
        command = [sys.executable, "-m", "flows.cli", "run", "configs/demo.yaml", *self.overrides]
        own_server = self.chance.random() < 0.15
        environment = self.environment if own_server else {**self.environment, "PREFECT_API_URL": self.url}
        log = (self.folder / "runs.log").open("ab")
        return subprocess.Popen(
            [*command, f"store={self.store}", *way], env=environment, stdout=log, stderr=log, cwd=ROOT
        )

    def note(self, pid: int) -> None:
        """Remember a process and all that it started."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            for one in (process, *process.children(recursive=True)):
                self.seen[one.pid] = one

    def kill(self, run: subprocess.Popen[bytes]) -> bool:
        """Kill a run with -9, and nothing that it started; whether it was still there."""
        self.note(run.pid)
        was_there = run.poll() is None
        run.kill()
        run.wait()
        self.happened["kills"] += was_there
        return was_there

    def wait(self, run: subprocess.Popen[bytes], seconds: float) -> None:
        give_up = time.monotonic() + seconds
        while run.poll() is None and time.monotonic() < give_up:
            self.note(run.pid)
            time.sleep(0.05)

    def moment(self) -> float:
        """Some time after the start of a run."""
        return self.chance.uniform(0.3, 1.0) * self.usual_s

    def finish(self) -> int:
        """A run to its end; its exit code."""
        run = self.start("engine.runner=threads")
        self.wait(run, PATIENCE_S)
        if run.poll() is None:
            self.kill(run)
            raise RuntimeError(f"a run took more than {PATIENCE_S} s; see {self.folder / 'runs.log'}")
        return run.returncode

    def killed(self) -> None:
        run = self.start()
        self.wait(run, self.moment())
        self.kill(run)

    def loader(self) -> None:
        """Killed when a transaction's log appears: DuckDB writes it at the commit, and when it spills."""
        run, log = self.start(), self.store / "catalog.duckdb.wal"
        after = time.monotonic() + self.moment()
        while run.poll() is None and not (log.exists() and time.monotonic() > after):
            time.sleep(0.0005)
        self.kill(run)

    def worker(self) -> None:
        run = self.start("engine.runner=dask", "engine.workers=2")
        self.wait(run, self.moment())
        with suppress(psutil.Error):
            children = psutil.Process(run.pid).children(recursive=True)
            workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
            if workers:
                self.chance.choice(workers).kill()
                self.happened["kills"] += 1
        self.wait(run, self.moment())
        self.kill(run)

    def server_away(self) -> None:
        run = self.start()
        self.wait(run, self.moment())
        self.note(self.server.pid)
        self.server.kill()
        self.server.wait()
        self.wait(run, self.chance.uniform(0, 5))
        self.server = self.start_server()
        self.wait(run, 2 * self.usual_s)
        self.kill(run)

    def disk(self) -> None:
        """Little room for a while."""
        used_kb = sum(path.stat().st_blocks for path in self.store.rglob("*") if path.is_file()) // 2
        self.remount(f"{used_kb + self.chance.randrange(20, 400)}k")
        run = self.start()
        self.wait(run, 2 * self.usual_s)
        self.kill(run)
        self.remount(DISK)

    def two(self) -> None:
        runs = [self.start(), self.start()]
        self.wait(runs[0], self.moment())
        self.kill(runs.pop(self.chance.randrange(2)))
        self.wait(runs[0], self.moment())
        self.kill(runs[0])

    def clock(self) -> None:
        move_s = self.chance.choice((-1, 1)) * self.chance.uniform(60, 10**7)
        for path in [*self.store.rglob("*"), *(self.folder / "model").iterdir()]:
            with suppress(FileNotFoundError):
                stamp = path.stat().st_mtime + move_s
                os.utime(path, (stamp, stamp))

    def new_store(self) -> None:
        """An empty store, on a small disk of its own where that can be had."""
        self.unmount()
        self.happened["stores"] += 1
        self.store = self.folder / f"store-{self.happened['stores']}" / "store"
        self.store.parent.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "chaos", str(self.store.parent)]
        if subprocess.run(mount, capture_output=True).returncode != 0:
            self.happened["no disk of its own"] += 1

    @property
    def is_mounted(self) -> bool:
        return os.path.ismount(self.store.parent)

    def remount(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", self.store.parent], check=True)

    def unmount(self) -> None:
        if self.is_mounted and self.store.parent.is_relative_to(self.folder):
            subprocess.run(["umount", self.store.parent], check=True)

    def disturb(self) -> None:
        """One thing, by chance."""
        things: dict[str, tuple[int, Callable[[], None]]] = {
            "kill": (8, self.killed),
            "loader": (4, self.loader),
            "worker": (2, self.worker),
            "server": (1, self.server_away),
            "two": (2, self.two),
            "clock": (2, self.clock),
        }
        if self.is_mounted:
            things["disk"] = (2, self.disk)
        weights = [weight for weight, _ in things.values()]
        name = self.chance.choices(list(things), weights)[0]
        print(f"{time.strftime('%H:%M:%S')} {name}", file=sys.stderr, flush=True)
        things[name][1]()
        self.happened[name] += 1

    def is_whole(self) -> bool:
        """Whether a last run brings the store to where it would be without all that, and nothing half-written is left.

        The run after it must find nothing to do.
        """
        codes = [self.finish()]
        before = self.store.joinpath("catalog.duckdb").stat().st_mtime_ns
        codes.append(self.finish())
        codes.append(int(self.store.joinpath("catalog.duckdb").stat().st_mtime_ns != before))
        left = [path for path in self.store.rglob("*") if ".partial" in path.name]
        equal = contents(self.store / "catalog.duckdb") == self.expected
        if any(codes) or left or not equal:
            found = f"exit codes {codes}, catalog {'equal' if equal else 'different'}, left over: {left}"
            print(f"{self.store}: {found}", file=sys.stderr, flush=True)
        return not any(codes) and equal and not left

    def orphans(self) -> list[psutil.Process]:
        """Processes that outlive whoever started them."""
        self.note(self.server.pid)
        self.server.send_signal(signal.SIGINT)
        self.server.wait(60)
        _, alive = psutil.wait_procs(list(self.seen.values()), timeout=30)
        return [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--disturbances", type=int, default=6, help="a store, before it is run to its end")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        chaos = Chaos(Path(folder), random.Random(arguments.seed))
        whole = 0
        try:
            while chaos.happened["kills"] < arguments.kills:
                chaos.new_store()
                for _ in range(arguments.disturbances):
                    chaos.disturb()
                whole += chaos.is_whole()
        finally:
            orphans = chaos.orphans()
            for one in orphans:
                print(f"left running: {one.pid} {' '.join(one.cmdline())[:200]}", file=sys.stderr)
                one.kill()
            chaos.unmount()
    figures = {
        **chaos.happened,
        "equal_catalogs": whole,
        "orphans": len(orphans),
        "undisturbed_s": round(chaos.usual_s, 1),
        "seconds": round(time.monotonic() - began),
        "seed": arguments.seed,
    }
    print(json.dumps(figures))
    sys.exit(whole < chaos.happened["stores"] or bool(orphans))


if __name__ == "__main__":
    main()
