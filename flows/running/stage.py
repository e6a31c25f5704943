"""What all stage flows share: the store held, the run recorded."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from configs.run import RunConfig
from flows.running.engine import console, engine_running
from storage.bucket.working_copy import hold, push_stage
from storage.catalog.database import check_catalog
from storage.catalog.runs import mark_killed, recorded
from storage.shared_shards import ReuseCount
from storage.store import Store, check_place, open_store


@contextmanager
def store_held(config: RunConfig, store: Store, purpose: str) -> Iterator[None]:
    """Hold the store while writing to it, with the engine that the configuration asks for.

    Raises:
        ValueError: the store cannot be written, another run holds it, a newer version wrote its catalog, or there is no
            such engine.
    """
    check_place(store.root)
    check_catalog(store.catalog)
    open_store(store.root)
    names = [config.name, config.model.repo or str(config.model.path and config.model.path.name)]
    notify = partial(console.print, markup=False, soft_wrap=True)
    with hold(store, purpose, notify=notify), engine_running(config.engine):
        _tag_run(names)
        mark_killed(store.catalog)
        yield


def _tag_run(names: list[str]) -> None:
    """Tag Prefect's flow run by checkpoint and model: what they are is not known when it is made.

    Its tasks are not tagged. For a tagged one Prefect asks the server for limits on the tag, and where the server's
    SQLite is busy at that moment, it asks again after two seconds, which happened to every other long task.
    """
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(flow_run.id), tags={*flow_run.tags, *names})


@contextmanager
def stage_recorded(
    config: RunConfig, store: Store, stage: str, run_id: str, recipe: str, **subject: Any
) -> Iterator[ReuseCount]:
    """Enter a stage in the catalog's `runs`. Yields the count of its shards, for the stage to keep."""
    row = {
        "run_id": run_id,
        "flow_run_id": flow_run.id,
        "checkpoint_id": None,
        "corpus_id": None,
        "stage": stage,
        "recipe": recipe,
        "finished_at": None,
        "error": None,
        "config": config.model_dump_json(),
        **subject,
    }
    with recorded(store.catalog, row) as tally:
        yield tally
    push_stage()
