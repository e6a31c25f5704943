"""Run a flow in this process from its first moment to its last: Prefect, a damaged catalog, a bucket."""

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from prefect import Flow

from configs.run import RunConfig
from flows.running.engine import prefect_at_hand
from flows.running.progress import console, working
from flows.subject.subject import store_path
from storage.bucket.working_copy import hold, push_rest
from storage.catalog.published import publish, sweep_published
from storage.catalog.restore import restore
from storage.catalog.runs import any_unended, mark_killed
from storage.checksums import DamagedError
from storage.store import Store, StoreInUseError

Returned = TypeVar("Returned")


def run_flow(flow: "Flow[[RunConfig, bool], Returned]", config: RunConfig, force: bool = False) -> Returned:
    """What a flow returns, run in this process with Prefect at hand; `force` as the flow takes it."""
    store = Store(store_path(config))
    with prefect_at_hand(), working(f"{flow.name} {config.name}"):
        result = with_catalog_mended(store, lambda: flow(config, force))
    push_rest(store)
    return result


def settle(store: Store) -> None:
    """Do what is left of a run that was killed when all its work was done: its end in `runs`, the catalog's copy, its
    bucket's last files. A run that holds the store at this moment did the first when it took it."""
    if any_unended(store.catalog):
        with suppress(StoreInUseError), hold(store, "record what was killed", everything=False):
            mark_killed(store.catalog)
            publish(store.catalog)
    push_rest(store)
    sweep_published(store.catalog)


def with_catalog_mended(store: Store, work: Callable[[], Returned]) -> Returned:
    """What some work returns; if it meets a damaged catalog, that is made again and the work done once more."""
    try:
        return work()
    except DamagedError as error:
        if error.path != store.catalog:
            raise
        with hold(store, "make the catalog again", everything=False):
            done = restore(store.catalog)
        if done is None:
            raise
    console.print(done, markup=False, soft_wrap=True, highlight=False)
    return work()
