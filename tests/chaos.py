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

Some stores are in a bucket, and then also:

    elsewhere   the run is killed with -9 and its local folder is gone, as if another machine went on
    bucket      the bucket's server does not answer for a while

After some of this the store is run to its end, its catalog compared with the undisturbed one, and a new store begun,
until there were enough kills. Prints one line of JSON; ends with 1 if a catalog differed or anything was left over.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil

from storage.bucket import lease
from storage.bucket.mirror import local_root
from storage.bucket.objects import Objects
from storage.bucket.working_copy import refresh
from storage.store import Store
from tests import object_server
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
IN_BUCKET = 0.3
"""Share of the stores."""


def run_forked(command: list[str], log: Path) -> None:
    """The command line in a process that was forked from one that had imported it: starting is not what is tested."""
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(ROOT)
    sys.argv = ["circuit-insights", *command]
    from flows.cli import main

    main()


class Run:
    """A running command line, however it was started."""

    def __init__(self, process: Any) -> None:
        self.process, self.pid = process, process.pid

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.process.poll() if isinstance(self.process, subprocess.Popen) else self.process.exitcode

    def kill(self) -> None:
        self.process.kill()
        self.process.wait() if isinstance(self.process, subprocess.Popen) else self.process.join()


class Chaos:
    """A place for models, stores and servers, and all processes that were ever started in it."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder, self.chance = folder, chance
        self.happened: Counter[str] = Counter()
        self.seen: dict[int, psutil.Process] = {}
        self.port = unused_port()
        self.s3_port = unused_port()
        endpoint = f"http://127.0.0.1:{self.s3_port}"
        self.environment = {
            **cli_environment(folder / "prefect"),
            **object_server.environment(endpoint, folder / "cache"),
        }
        self.url: str | None = None
        """Of a store in a bucket."""
        self.overrides = [*planted_overrides(folder, STAGES), *SMALL]
        self.server = self.start_server()
        self.s3 = self.start_bucket(endpoint)
        os.environ.update({**self.environment, "PREFECT_API_URL": self.api})
        self.forks = multiprocessing.get_context("forkserver")
        self.forks.set_forkserver_preload(["flows.cli", "flows.describe_checkpoint", "flows.costs.plan"])
        self.store = self.undisturbed = folder / "undisturbed"
        self.finish()  # which also starts what the others are forked from
        shutil.rmtree(self.undisturbed)
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
            with suppress(OSError), urlopen(f"{self.api}/health", timeout=5):
                break
            time.sleep(0.2)
        self.note(server.pid)
        return server

    def start_bucket(self, endpoint: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.s3_port)]
        log = (self.folder / "bucket.log").open("ab")
        server = subprocess.Popen(command, stdout=log, stderr=log)
        give_up = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up:
            with suppress(OSError):
                object_server.make_bucket(endpoint, "chaos")
                break
            time.sleep(0.2)
        self.note(server.pid)
        return server

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def start(self, runner: str | None = None) -> Run:
        """A run of the store: by threads with the server at hand, or by Dask's workers, or with a server of its own."""
        how = runner or self.chance.choices(["threads", "dask", "own server"], [8, 1, 1])[0]
        way = ["engine.runner=dask", "engine.workers=2"] if how == "dask" else []
        command = ["run", "configs/demo.yaml", *self.overrides, f"store={self.url or self.store}", *way]
        log = self.folder / "runs.log"
        if how == "threads":
            forked = self.forks.Process(target=run_forked, args=(command, log))
            forked.start()
            return Run(forked)
        environment = self.environment if how == "own server" else {**self.environment, "PREFECT_API_URL": self.api}
        arguments = [sys.executable, "-m", "flows.cli", *command]
        with log.open("ab") as file:
            return Run(subprocess.Popen(arguments, env=environment, stdout=file, stderr=file, cwd=ROOT))

    def note(self, pid: int) -> None:
        """Remember a process and all that it started."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            for one in (process, *process.children(recursive=True)):
                self.seen[one.pid] = one

    def kill(self, run: Run) -> bool:
        """Kill a run with -9, and nothing that it started; whether it was still there."""
        self.note(run.pid)
        was_there = run.code is None
        run.kill()
        self.happened["kills"] += was_there
        return was_there

    def wait(self, run: Run, seconds: float) -> None:
        give_up = time.monotonic() + seconds
        while run.code is None and time.monotonic() < give_up:
            self.note(run.pid)
            time.sleep(0.05)

    def moment(self) -> float:
        """Some time after the start of a run."""
        return self.chance.uniform(0.05, 0.8) * self.usual_s

    def finish(self) -> int:
        """A run to its end; its exit code."""
        run = self.start("threads")
        self.wait(run, PATIENCE_S)
        if run.code is None:
            self.kill(run)
            raise RuntimeError(f"a run took more than {PATIENCE_S} s; see {self.folder / 'runs.log'}")
        return run.code

    def killed(self) -> None:
        run = self.start()
        self.wait(run, self.moment())
        self.kill(run)

    def loader(self) -> None:
        """Killed when a transaction's log appears: DuckDB writes it at the commit, and when it spills."""
        run, log = self.start(), self.store / "catalog.duckdb.wal"
        after = time.monotonic() + self.moment()
        while run.code is None and not (log.exists() and time.monotonic() > after):
            time.sleep(0.0005)
        self.kill(run)

    def worker(self) -> None:
        run = self.start("dask")
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

    def elsewhere(self) -> None:
        assert self.url is not None
        self.killed()
        shutil.rmtree(self.store)
        Objects(self.url).remove([lease.KEY])  # as if a minute had passed
        local_root(self.url)

    def bucket_away(self) -> None:
        run = self.start()
        self.wait(run, self.moment())
        self.s3.send_signal(signal.SIGSTOP)
        self.wait(run, self.chance.uniform(1, 20))
        self.s3.send_signal(signal.SIGCONT)
        self.wait(run, self.moment())
        self.kill(run)

    def new_store(self) -> None:
        """An empty store: one in a bucket, or one on a small disk of its own where that can be had."""
        self.unmount()
        self.happened["stores"] += 1
        self.url = f"s3://chaos/store-{self.happened['stores']}" if self.chance.random() < IN_BUCKET else None
        if self.url is not None:
            self.happened["stores in a bucket"] += 1
            self.store = local_root(self.url)
            return
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
        if self.url is not None:
            things |= {"elsewhere": (4, self.elsewhere), "bucket": (3, self.bucket_away)}
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
        if self.url is not None:  # what another machine would see
            shutil.rmtree(self.store)
            self.store = local_root(self.url)
            refresh(Store(self.store))
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
        self.s3.terminate()
        self.s3.wait(60)
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
