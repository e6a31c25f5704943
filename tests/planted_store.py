"""The planted model in a store with a catalog, ingested without Prefect, in half a second."""

from datetime import datetime
from pathlib import Path

from configs.load import load_config
from flows.ingest import quality_job
from flows.inputs.checkpoint_plan import CheckpointPlan, identify, open_inputs
from storage.catalog.database import insert_row, open_catalog
from storage.catalog.published import publish
from tasks.ingest import ingest_embeddings, ingest_layer, load_checkpoint, measure_layers
from tests.conftest import planted_overrides


def planted_store(folder: Path) -> CheckpointPlan:
    """Store the planted checkpoint below a folder, and enter it with a run and two descriptions in the catalog."""
    config = load_config(Path("configs/demo.yaml"), planted_overrides(folder))
    plan = identify(open_inputs(config))
    store, job = plan.store, quality_job(plan)
    measure_layers.fn(store, job, tuple(plan.layers))
    ingest_embeddings.fn(store, job)
    for layer in plan.layers:
        ingest_layer.fn(store, job, layer)
    load_checkpoint.fn(store, plan.checkpoint_id, plan.attributes, job.text.recipe, None)
    with open_catalog(store.catalog, write=True) as connection:
        run = {"run_id": "a run", "checkpoint_id": plan.checkpoint_id, "stage": "ingest", "status": "completed"}
        run |= {"started_at": datetime(2026, 1, 1), "config": config.model_dump_json()}
        insert_row(connection, "runs", run)
        for layer, feature, said in ((0, 3, "word5 or <b>word7</b>"), (1, 2, "after word5 or word7")):
            row = {"checkpoint_id": plan.checkpoint_id, "layer": layer, "feature": feature, "text": said}
            row |= {"method": "weightlens", "explainer": "tokens", "cluster": -1, "corpus_id": None}
            insert_row(connection, "descriptions", row)
    publish(store.catalog)
    return plan
