"""Processes of this machine for work of the Python interpreter, which threads of one process do one at a time."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for_end
from multiprocessing.process import BaseProcess

import torch

from flows.running.progress import console
from tasks.shard_task import PROCESSES

PAYS_S = 2.0
"""Seconds of such work by threads after which processes are started; small runs end before that."""

STARTING_S = 30.0
"""Seconds that a run waits at its end for processes that are still starting."""

PRELOADED = "tasks.forked"
"""Modules that the parent process imports, so that each forked process has its libraries loaded."""


class ForkedProcesses:
    """Processes, as many as tasks run at once, forked from a process without threads. They end with this process,
    however it ends."""

    def __init__(self, n: int) -> None:
        self._n, self._spent, self._lock = n, 0.0, threading.Lock()
        self._executor: ProcessPoolExecutor | None = None
        self._starting: threading.Thread | None = None
        self._children: list[BaseProcess] = []
        self._ended = False

    @property
    def executor(self) -> Executor | None:
        """The processes once all of them have started; until then tasks run in threads."""
        return self._executor

    def spent(self, seconds: float) -> None:
        """Record that such work took this many seconds in this process."""
        with self._lock:
            self._spent += seconds
            if self._ended or self._spent < PAYS_S or self._starting is not None:
                return
            self._starting = threading.Thread(target=self._start, daemon=True)
            self._starting.start()

    def end(self) -> None:
        """End them all. What they are at is not waited for: a part is written whole or not at all. Those that are still
        starting are, for a while: a process that starts while this one ends prints a traceback."""
        with self._lock:
            self._ended = True
            executor, self._executor = self._executor, None
            starting = self._starting
        if starting is not None:
            starting.join(STARTING_S)
        if executor is not None:
            self._close(executor)

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([PRELOADED])
        threads = max(1, (os.cpu_count() or 1) // self._n)
        executor = ProcessPoolExecutor(self._n, context, initializer=_prepare, initargs=(threads,))
        others = set(multiprocessing.active_children())
        begun = [executor.submit(os.getpid) for _ in range(self._n)]
        wait(begun)
        self._children = [child for child in multiprocessing.active_children() if child not in others]
        problem = next((one.exception() for one in begun if one.exception()), None)
        if problem is not None:
            console.print(f"describing and scoring stay in one process: {problem}", markup=False, soft_wrap=True)
        with self._lock:
            if problem is None and not self._ended:
                self._executor = executor
                return
        self._close(executor)

    def _close(self, executor: Executor) -> None:
        for child in self._children:
            child.kill()
        executor.shutdown(wait=False, cancel_futures=True)


@contextmanager
def processes_at_hand(n: int) -> Iterator[None]:
    """A context in which tasks that spend their time in the interpreter run in `n` processes, once there is enough such
    work. They run in threads if n is 1, and where forking is not safe (anywhere but on Linux)."""
    if n == 1 or sys.platform != "linux":
        yield
        return
    processes = ForkedProcesses(n)
    token = PROCESSES.set(processes)
    try:
        yield
    finally:
        PROCESSES.reset(token)
        processes.end()


def _prepare(threads: int) -> None:
    """In a new process: leave Ctrl-C to the one that it works for, and end when that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait_for_end([sentinel])
    os._exit(1)
