"""The common base of all tasks: where their work is done, and which failures are retried."""

import errno
import time
from collections.abc import Callable
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from contextvars import ContextVar
from functools import cached_property, wraps
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Generic, ParamSpec, Protocol, TypeVar, cast
from uuid import uuid4

import torch

if TYPE_CHECKING:
    from distributed import Client
    from prefect import State, Task
    from prefect.client.schemas import TaskRun
    from prefect.futures import PrefectFuture

P = ParamSpec("P")
R = TypeVar("R")

RETRIES = 2

CLUSTER: ContextVar["Client | None"] = ContextVar("cluster", default=None)
"""The Dask cluster whose workers do the work of tasks; None: it is done in this process."""


class Processes(Protocol):
    """Processes of this machine for work of the Python interpreter, of which threads can do only one at a time."""

    @property
    def executor(self) -> Executor | None:
        """The processes, once they have started; None before."""
        ...

    def spent(self, seconds: float) -> None:
        """Record that such work took this many seconds in this process."""
        ...


PROCESSES: ContextVar[Processes | None] = ContextVar("processes", default=None)
"""The processes for tasks that spend their time in the interpreter; None: they run where they are started."""

PROGRESS: ContextVar[Callable[[int], None] | None] = ContextVar("progress", default=None)
"""Called by a long task with the number of its finished parts; does nothing on a worker of a cluster."""


def may_pass(_task: object, _run: "TaskRun", state: "State[object]") -> bool:
    """Whether a failure is worth a retry: not wrong input, not a full disk."""
    try:
        state.result()
    except (ValueError, TypeError, KeyError, AssertionError):
        return False
    except OSError as error:
        return error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
    except BaseException:
        return True
    return False


class ShardTask(Generic[P, R]):
    """Work on one shard that a flow runs as a Prefect task, with the signature of the function that does it.

    The Prefect task is made when a flow first uses it: on a worker of a cluster Prefect is not even imported. Results
    are files whose paths contain their recipe, so Prefect's cache is not used.
    """

    def __init__(self, work: Callable[P, R], name: str, run_name: str, interpreted: bool = False) -> None:
        self.work, self.name, self.run_name, self.interpreted = work, name, run_name, interpreted
        self.__doc__ = work.__doc__

    def fn(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Do the work without Prefect, here or on a worker of the cluster.

        With a cluster that is the worker that does it, and the thread of the task waits. So it does for a process of
        this machine if the task is one of the interpreter.
        """
        cluster = CLUSTER.get()
        if cluster is not None:
            key = f"{self.name}-{uuid4()}"
            return cast(R, cluster.submit(_work_on_worker, self._place, args, kwargs, key=key, pure=False).result())
        processes = PROCESSES.get() if self.interpreted else None
        if processes is None:
            return _work_here(self.work, *args, **kwargs)
        executor = processes.executor
        if executor is not None:
            return self._in_process(executor, *args, **kwargs)
        began = time.thread_time()
        try:
            return _work_here(self.work, *args, **kwargs)
        finally:
            processes.spent(time.thread_time() - began)

    def _in_process(self, executor: Executor, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return cast(R, executor.submit(_work_on_worker, self._place, args, kwargs).result())
        except BrokenProcessPool:
            raise ValueError(
                f"a process of the task {self.name} was killed, as the system does when memory runs out; with fewer "
                "engine.workers fewer are at work at once, and with engine.workers=1 there are none"
            ) from None

    @property
    def _place(self) -> str:
        return f"{self.work.__module__}:{self.work.__qualname__}"

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> "PrefectFuture[R]":
        """Submit it to the flow's task runner."""
        return self._task.submit(*args, **kwargs)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it as a task, and wait for it."""
        return self._task(*args, **kwargs)

    @cached_property
    def _task(self) -> "Task[P, R]":
        from prefect import task
        from prefect.cache_policies import NO_CACHE

        @wraps(self.work)
        def run_work(*args: P.args, **kwargs: P.kwargs) -> R:
            return self.fn(*args, **kwargs)

        decorate = task(
            name=self.name,
            task_run_name=self.run_name,
            retries=RETRIES,
            retry_delay_seconds=1,
            retry_condition_fn=may_pass,
            cache_policy=NO_CACHE,
            persist_result=False,
        )
        return decorate(run_work)


def shard_task(name: str, run_name: str, *, interpreted: bool = False) -> Callable[[Callable[P, R]], ShardTask[P, R]]:
    """A `ShardTask`, by name and the name of its runs, which may have arguments of the work in braces.

    interpreted: most of its time is spent in the Python interpreter, so that threads do not help; see `PROCESSES`.
    """
    return lambda work: ShardTask(work, name, run_name, interpreted)


def _work_here(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    torch.get_num_threads()  # until this call, matrix products of a new thread use every core
    return work(*args, **kwargs)


def _work_on_worker(place: str, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    """Do the work of the task at `module:name`. It is sent by name, not by value, so that a worker's caches outlive its
    tasks."""
    return _work_here(resolve_name(place).work, *args, **kwargs)
