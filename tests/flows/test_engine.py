"""Where the work of tasks is done: whatever a flow was started by, its configuration says."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.context import TaskRunContext
from prefect.runtime import flow_run

from configs.engine import EngineConfig
from configs.run import RunConfig
from flows.running.engine import engine_running
from flows.running.stage import store_held
from storage.store import Store
from tasks.shard_task import shard_task
from tests.conftest import listening

pytestmark = [pytest.mark.usefixtures("prefect_here"), pytest.mark.whole]

N_TASKS = 6


@shard_task("whereabouts", "whereabouts")
def whereabouts(meeting: Path, n: int) -> tuple[int, int, float, float]:
    """Process and thread of the work, and when it began and ended; not before `n` have come to the meeting."""
    began = time.time()
    (meeting / uuid4().hex).touch()
    while len(list(meeting.iterdir())) < n and time.time() < began + 60:
        time.sleep(0.01)
    time.sleep(0.2)
    return os.getpid(), threading.get_ident(), began, time.time()


@shard_task("own-tags", "own tags")
def own_tags() -> set[str]:
    """Of the task's run."""
    context = TaskRunContext.get()
    assert context is not None
    return set(context.task_run.tags)


@shard_task("refuse", "refuse")
def refuse() -> None:
    """Bad input."""
    raise ValueError("layer 3 has no decoder")


@flow
def spread(engine: EngineConfig, meeting: Path) -> list[tuple[int, int, float, float]]:
    with engine_running(engine):
        return [f.result() for f in [whereabouts.submit(meeting, engine.workers) for _ in range(N_TASKS)]]


@flow
def heard(engine: EngineConfig) -> set[str]:
    with engine_running(engine):
        return listening(os.getpid())


@flow
def refused(engine: EngineConfig) -> None:
    with engine_running(engine):
        refuse.submit().result()


def at_once(spans: list[tuple[int, int, float, float]]) -> int:
    """The most tasks that were at work at one moment."""
    return max(sum(began <= moment < ended for _, _, began, ended in spans) for _, _, moment, _ in spans)


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_are_as_many_as_asked_for(workers: int, tmp_path: Path) -> None:
    spans = spread(EngineConfig(workers=workers), tmp_path)
    assert {span[0] for span in spans} == {os.getpid()}
    assert at_once(spans) == workers


def test_dask_workers_are_processes_with_a_task_each(tmp_path: Path) -> None:
    spans = spread(EngineConfig(runner="dask", workers=2), tmp_path)
    assert len({span[0] for span in spans}) == 2
    assert os.getpid() not in {span[0] for span in spans}
    assert at_once(spans) == 2


def test_only_this_host_can_reach_what_listens() -> None:
    assert heard(EngineConfig(runner="dask", workers=2)) == {"127.0.0.1"}


def test_an_error_comes_back_from_a_dask_worker() -> None:
    with pytest.raises(ValueError, match="layer 3 has no decoder"):
        refused(EngineConfig(runner="dask", workers=1))


@flow
def tagged(config: RunConfig, store: Store) -> tuple[set[str], set[str]]:
    """Tags of a stage's run and of one of its tasks."""
    with store_held(config, store, "tagged"), get_client(sync_client=True) as client:
        return set(client.read_flow_run(UUID(flow_run.id)).tags), own_tags.submit().result()


def test_runs_are_tagged_and_tasks_are_not_or_they_would_wait_for_the_limits_of_tags(tmp_path: Path) -> None:
    paths = {"model": {"path": "models/tiny"}, "transcoder": {"path": "."}, "corpus": {"source": "x"}}
    config = RunConfig.model_validate({"name": "demo", **paths})
    assert tagged(config, Store(tmp_path / "store")) == ({"demo", "tiny"}, set())


def test_the_work_of_tasks_is_imported_without_prefect_which_workers_of_a_cluster_do_not_need() -> None:
    modules = sorted(path.stem for path in Path("tasks").glob("[a-z]*.py"))
    program = f"import sys; from tasks import {', '.join(modules)}; print('prefect' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
