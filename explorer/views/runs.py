"""Runs of stages on the store, their durations and costs."""

from explorer.catalog import Reader
from explorer.page import Page
from explorer.progress import going_on

RUNS = """
    SELECT r.run_id, r.flow_run_id, r.checkpoint_id, c.name, r.stage, r.status, r.started_at, r.finished_at,
           coalesce(r.actual_s, epoch(r.finished_at) - epoch(r.started_at)) AS seconds, r.predicted_s,
           r.n_shards, r.n_reused, r.code_version, r.host,
           r.error
    FROM runs r LEFT JOIN checkpoints c USING (checkpoint_id) ORDER BY r.started_at DESC LIMIT 300
"""

USUAL = """
    SELECT checkpoint_id, stage, median(epoch(finished_at) - epoch(started_at)) AS seconds, count(*) AS n
    FROM runs WHERE status = 'completed' GROUP BY ALL ORDER BY ALL
"""

SPENT = """
    SELECT s.model, s.purpose, sum(n_calls)::BIGINT AS n_calls, sum(n_from_store)::BIGINT AS n_from_store,
           sum(n_without_use)::BIGINT AS n_without_use, sum(input_tokens)::BIGINT AS input_tokens,
           sum(output_tokens)::BIGINT AS output_tokens, sum(cost_usd) AS cost_usd
    FROM llm_spend s GROUP BY ALL ORDER BY cost_usd DESC NULLS LAST, model, purpose
"""


def runs_page(reader: Reader) -> Page:
    """Stages of all runs, the newest first, and the cost of language models."""
    panels = {
        "runs": reader.panel("Stages", RUNS, {}),
        "usual": reader.panel("How long stages took so far", USUAL, {}),
        "spent": reader.panel("Language models", SPENT, {}),
    }
    shapes = [(row["n_layers"], row["d_transcoder"]) for row in reader.checkpoints[:1]]
    now = going_on(reader.store, *shapes[0]) if shapes else None
    return Page("Runs", None, {"going_on": now, "prefect": reader.prefect}, panels)
