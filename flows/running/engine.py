"""Distribute tasks over threads or Dask, and wait for them with progress in the terminal and in Prefect's UI."""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext
from prefect.events.worker import EventsWorker
from prefect.futures import PrefectFuture, as_completed
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner

from configs.engine import EngineConfig
from flows.inputs.machine import n_workers, visible_devices
from flows.running.prefect_api import check_prefect_answers
from flows.running.prefect_server import end_early, started
from flows.running.processes import processes_at_hand
from flows.running.progress import working
from storage.bucket.working_copy import check_held
from tasks.shard_task import CLUSTER

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

R = TypeVar("R")

SECONDS_PER_UPDATE = 2.0
"""Seconds between updates of the progress artifact, each of which is a request to the server."""

SCHEDULER_PATIENCE_S = 10.0
"""Seconds that a Dask scheduler may take to answer."""

WORKER_PATIENCE_S = 60.0
"""Seconds that its first worker may take to connect."""

TELLING_S = 30.0
"""Seconds that Prefect's server may take to receive the remaining events."""


@contextmanager
def engine_running(engine: EngineConfig) -> Iterator[None]:
    """A context within a flow in which tasks run as the configuration says: in threads, or on a Dask cluster's workers.

    In both cases Prefect's tasks are threads of this process. With `prefect_dask` they would be tasks of the workers:
    each would need a connection to Prefect's server, which takes 0.2 s for each task, and a server that all hosts can
    reach.

    Raises:
        ValueError: nothing answers at `engine.dask_address`, or it has no workers.
    """
    flow_run = FlowRunContext.get()
    assert flow_run is not None
    with ExitStack() as stack:
        cluster = None if engine.runner == "threads" else stack.enter_context(_cluster(engine))
        token = CLUSTER.set(cluster)
        stack.callback(CLUSTER.reset, token)
        at_once = n_workers(engine)
        if cluster is not None and engine.workers is None:
            threads = cluster.nthreads()
            assert isinstance(threads, dict)  # only an asynchronous client returns a coroutine
            at_once = sum(threads.values())
        runner = stack.enter_context(ThreadPoolTaskRunner(max_workers=at_once))
        stack.enter_context(flow_run.model_copy(update={"task_runner": runner}))
        stack.enter_context(_cores_shared(engine))
        if cluster is None:
            stack.enter_context(processes_at_hand(at_once))
        yield


@contextmanager
def _cluster(engine: EngineConfig) -> Iterator["Client"]:
    """A running Dask cluster with at least one worker, or a local one, whose workers have one thread each."""
    from distributed import Client  # imported here because it takes a second

    logging.getLogger("distributed").setLevel(logging.WARNING)  # it logs every connection
    with ExitStack() as stack:
        address: Any = engine.dask_address  # Dask's annotations know neither a cluster here nor no page
        if address is None:
            address = stack.enter_context(local_cluster(engine))
        try:
            client = stack.enter_context(Client(address, timeout=SCHEDULER_PATIENCE_S, set_as_default=False))
            client.wait_for_workers(1, timeout=WORKER_PATIENCE_S)
        except (OSError, TimeoutError, ValueError) as error:
            if engine.dask_address is None:
                raise
            raise ValueError(f"engine.dask_address: no Dask workers at {engine.dask_address}: {error}") from None
        yield client


def local_cluster(engine: EngineConfig) -> "LocalCluster":
    """Workers on this machine, with one thread each; with `engine.devices`, each sees one GPU only."""
    from distributed import LocalCluster

    devices = [None] * n_workers(engine) if engine.devices is None else visible_devices(engine)

    class OneDeviceEach(LocalCluster):
        def new_worker_spec(self) -> dict[Any, dict[str, Any]]:
            specs: dict[Any, Any] = super().new_worker_spec()  # for each worker, as Dask sets them
            [(name, spec)] = specs.items()
            device = devices[len(self.worker_spec) % len(devices)]
            own = {} if device is None else {"env": {"CUDA_VISIBLE_DEVICES": device}}
            return {name: {**spec, "options": {**spec["options"], **own}}}

    settings: Any = {"n_workers": 0, "threads_per_worker": 1, "dashboard_address": None}
    cluster = OneDeviceEach(**settings)
    cluster.scale(len(devices))
    return cluster


@contextmanager
def prefect_at_hand() -> Iterator[None]:
    """A Prefect server for this process unless one is set; it ends with the process in any case.

    Raises:
        ValueError: one is set and does not answer.
    """
    if PREFECT_API_URL.value():
        end_early()
        check_prefect_answers()
        yield
        return
    server = started()
    try:
        with working("start Prefect's server"):
            server.wait_until_it_answers()
        with temporary_settings({PREFECT_API_URL: server.url}):
            yield
    finally:
        server.end()


def tell_prefect_all() -> None:
    """Wait until Prefect's server has received all events, in processes that continue after their run.

    Prefect sends events from a separate thread, which would retry for minutes once the server is gone.
    """
    # In a separate thread, because with a running event loop, as in a notebook, Prefect would return a coroutine.
    telling = Thread(target=partial(EventsWorker.drain_all, timeout=TELLING_S))
    telling.start()
    telling.join()


@contextmanager
def _cores_shared(engine: EngineConfig) -> Iterator[None]:
    """Within one process, give each task its share of the cores instead of all of them."""
    before = torch.get_num_threads()
    if engine.runner == "threads":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // n_workers(engine)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def wait_for_all(futures: Sequence[PrefectFuture[R]], title: str) -> list[R]:
    """The results of all tasks, with progress; the first failure is raised."""
    if not futures:
        return []
    artifact = create_progress_artifact(progress=0.0, description=title)
    updated = time.monotonic()
    with working(title, len(futures)) as step:
        for done, future in enumerate(as_completed(list(futures)), 1):
            future.result()
            check_held()
            step.advance(done)
            if time.monotonic() - updated > SECONDS_PER_UPDATE:
                update_progress_artifact(artifact, 100.0 * done / len(futures))  # pyright: ignore
                updated = time.monotonic()
        update_progress_artifact(artifact, 100.0)  # pyright: ignore
    return [future.result() for future in futures]
