"""Describe one new checkpoint of a series, and compare it with its neighbours."""

from prefect import flow

from configs.run import RunConfig
from flows.compare_checkpoints import compare_checkpoints
from flows.describe_checkpoint import describe_checkpoint
from flows.inputs.checkpoint_plan import store_path
from flows.inputs.series import seen
from interp.drift import DriftSettings
from storage.bucket.working_copy import hold, refresh
from storage.catalog.database import insert_row, open_catalog
from storage.catalog.published import publish
from storage.catalog.runs import now
from storage.store import Store


@flow(name="describe-arrived", flow_run_name="describe {config.name}")
def describe_arrived(config: RunConfig, place: str, name: str, step: int) -> str:
    """Describe a checkpoint of a series unless it has been described; returns its id.

    It may be called any number of times and in any order: the table `watched` of the catalog has the checkpoints that
    were described and compared. Checkpoints are compared by weights only.
    """
    store = store_path(config)
    catalog = store / "catalog.duckdb"
    refresh(Store(store))
    known = seen(catalog, place)
    if name in known:
        return known[name][1]
    checkpoint_id = describe_checkpoint(config)
    before = [other for at, other in known.values() if at < step and other != checkpoint_id]
    after = [other for at, other in known.values() if at > step and other != checkpoint_id]
    pairs = [*((other, checkpoint_id) for other in before[-1:]), *((checkpoint_id, other) for other in after[:1])]
    for a, b in pairs:
        compare_checkpoints(store, a, b, DriftSettings(n_positions=0))
    row = {"place": place, "name": name, "step": step, "checkpoint_id": checkpoint_id, "seen_at": now()}
    with hold(Store(store), f"watch {name}", everything=False):
        with open_catalog(catalog, write=True) as connection:
            insert_row(connection, "watched", row)
        publish(catalog)
    return checkpoint_id
