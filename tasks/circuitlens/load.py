"""Load the results of CircuitLens into the catalog."""

from collections.abc import Sequence

from storage.catalog.contribution_edges import replace_contribution_edges
from storage.catalog.database import RunOf, loaded_subject, mark_loaded, open_catalog, replace_failures, replace_rows
from storage.store import ShardKey, Store
from tasks.circuitlens.job import SIGNED, CircuitLensJob
from tasks.shard_task import shard_task


@shard_task("load-circuitlens", "load circuitlens")
def load_circuitlens(
    store: Store, job: CircuitLensJob, run_id: str, keys: Sequence[ShardKey], ablated: Sequence[ShardKey]
) -> str:
    """Load all parts into the catalog in one transaction, replacing those of an earlier recipe."""
    with open_catalog(store.catalog, write=True) as connection:
        for table in ("contributions", "logit_effects", "qk_contributions", "clusters", "samples"):
            replace_rows(connection, table, job.shared, [store.part(table, key) for key in keys])
        replace_contribution_edges(connection, job.checkpoint_id, job.corpus_id)
        scores = [store.part("scores", key) for key in (*keys, *ablated)]
        replace_rows(connection, "scores", job.shared | SIGNED, scores)
        failures = [store.part("failures", key) for key in keys]
        replace_failures(connection, "circuitlens", RunOf(run_id, job.checkpoint_id, job.corpus_id), failures)
        mark_loaded(connection, loaded_subject(job.checkpoint_id, job.corpus_id), "circuitlens", job.recipe)
    return job.recipe
