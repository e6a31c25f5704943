"""Run a flow in this process from start to end, with a Prefect server, repair of the catalog, and a bucket."""

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from prefect import Flow

from configs.run import RunConfig
from flows.inputs.checkpoint_plan import store_path
from flows.running.engine import prefect_at_hand
from flows.running.progress import console, working
from storage.bucket.working_copy import hold, push_rest
from storage.catalog.published import publish, sweep_published
from storage.catalog.restore import restore
from storage.catalog.runs import any_unended, mark_killed
from storage.checksums import DamagedError
from storage.store import Store, StoreInUseError

Returned = TypeVar("Returned")


def run_flow(flow: "Flow[[RunConfig, bool], Returned]", config: RunConfig, force: bool = False) -> Returned:
    """Run a flow in this process with a Prefect server and return its result; `force` is passed on to the flow."""
    store = Store(store_path(config))
    with prefect_at_hand(), working(f"{flow.name} {config.name}"):
        result = with_catalog_mended(store, lambda: flow(config, force))
    push_rest(store)
    return result


def settle(store: Store) -> None:
    """Finish a run that was killed after all its work was done: record its end, publish the catalog, push the last
    files to the bucket. If another run has locked the store, it has already recorded the end."""
    if any_unended(store.catalog):
        with suppress(StoreInUseError), hold(store, "record the end of a killed run", everything=False):
            mark_killed(store.catalog)
            publish(store.catalog)
    push_rest(store)
    sweep_published(store.catalog)


def with_catalog_mended(store: Store, work: Callable[[], Returned]) -> Returned:
    """Run some work and return its result; if it finds the catalog damaged, restore the catalog and run the work
    again."""
    try:
        return work()
    except DamagedError as error:
        if error.path != store.catalog:
            raise
        with hold(store, "restore the catalog", everything=False):
            done = restore(store.catalog)
        if done is None:
            raise
    console.print(done, markup=False, soft_wrap=True, highlight=False)
    return work()
