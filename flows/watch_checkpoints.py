"""Look for new checkpoints of a series: describe them here, or announce them to Prefect, which starts their
description."""

from typing import Annotated

from annotated_types import Ge
from prefect import flow, get_run_logger
from prefect.events import emit_event

from configs.run import RunConfig
from flows.describe_arrived import describe_arrived
from flows.inputs.checkpoint_plan import store_path
from flows.inputs.series import Series, arrived
from storage.bucket.working_copy import is_in_use
from storage.store import Store

EVENT = "checkpoint.created"
"""Name of the event. Its payload is what `describe_arrived` takes; see the trigger in deployments/prefect.yaml."""

Settle = Annotated[float, Ge(0)]


@flow(name="watch-checkpoints", flow_run_name="watch {place}")
def watch_checkpoints(
    config: RunConfig, place: str, pattern: str = "step*", series: Series = "model", settle_s: Settle = 10.0
) -> list[str]:
    """Describe every new, complete checkpoint of a folder or of a repository `hf://OWNER/NAME`, in order; returns their
    ids. It looks once; a checkpoint that fails is tried again the next time."""
    described, failed = [], []
    for found, one in arrived(config, place, pattern, series, settle_s):
        if one is None:
            get_run_logger().info("%s is still being written", found.path)
            continue
        try:
            described.append(describe_arrived(*one))
        except ValueError as error:
            failed.append(f"{found.name}: {error}")
    if failed:
        raise ValueError("\n".join(failed))
    return described


@flow(name="announce-checkpoints", flow_run_name="look at {place}")
def announce_checkpoints(
    config: RunConfig, place: str, pattern: str = "step*", series: Series = "model", settle_s: Settle = 10.0
) -> list[str]:
    """Emit `checkpoint.created` for every new, complete checkpoint of a series; returns their names.

    The event is emitted each time until the checkpoint is described, since an event may be lost. While a run has locked
    the store, nothing is emitted, since another run could not start.
    """
    if is_in_use(Store(store_path(config))):
        return []
    announced = []
    for found, one in arrived(config, place, pattern, series, settle_s):
        if one is None:
            get_run_logger().info("%s is still being written", found.path)
            continue
        resource = {"prefect.resource.id": f"circuit-insights.checkpoint.{one.config.name}"}
        emit_event(EVENT, resource, payload={**one._asdict(), "config": one.config.model_dump(mode="json")})
        announced.append(found.name)
    return announced
