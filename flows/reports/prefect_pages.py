"""A checkpoint in Prefect's pages: artifacts with fixed keys, so that each has a history.

All text of vocabularies and corpora goes through `markdown_cell`.
"""

import os
import re

import duckdb
from prefect.artifacts import create_markdown_artifact

from explorer.links import url
from flows.reports.summary import markdown_cell, markdown_summary
from storage.bucket.mirror import name_of
from storage.catalog.published import open_published
from storage.store import Store

N_SHOWN = 15

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"

FEATURE = re.compile(r"^\| (\d+) \| (\d+) \|", re.MULTILINE)
"""A row of a table whose first columns are layer and feature."""

JUDGED = """
    SELECT s.layer, s.feature, s.method, s.value, d.text
    FROM scores s JOIN descriptions d USING (checkpoint_id, layer, feature, method, explainer)
    WHERE s.checkpoint_id = $id AND s.metric = 'clarity' AND s.value IS NOT NULL AND d.cluster = -1
      AND s.method NOT LIKE 'control:%'
    ORDER BY s.value {}, s.layer, s.feature, s.method LIMIT $n
"""

METHODS = """
    SELECT metric, method, explainer, judge, sum(n_features), sum(mean * n_features) / sum(n_features),
           sum(lift * n_paired) / nullif(sum(n_paired), 0)
    FROM method_comparison WHERE checkpoint_id = $id AND judge <> 'none' AND n_features > 0
      AND method NOT LIKE 'control:%'
    GROUP BY ALL ORDER BY metric, method, explainer, judge
"""

SPENT = """
    SELECT model, purpose, sum(n_calls), sum(n_from_store), sum(input_tokens), sum(output_tokens), sum(cost_usd)
    FROM llm_spend WHERE run_id IN (SELECT run_id FROM runs WHERE checkpoint_id = $id) GROUP BY ALL ORDER BY ALL
"""

REASONS = """
    SELECT stage, reason, count(*), min(layer), max(layer), any_value(detail) FROM failures
    WHERE run_id IN (SELECT run_id FROM runs WHERE checkpoint_id = $id) GROUP BY ALL ORDER BY count(*) DESC
"""

RUNS = """
    SELECT stage, status, date_trunc('second', started_at), date_trunc('second', finished_at), n_reused, n_shards,
           error, flow_run_id FROM runs
    WHERE checkpoint_id = $id ORDER BY started_at DESC LIMIT $n
"""


def show_checkpoint(store: Store, checkpoint_id: str, name: str) -> None:
    """Show a checkpoint: layers, best and worst features, methods, cost, failures, runs."""
    place = f"{explorer_address()}{url('overview', checkpoint=checkpoint_id)}"
    about = (
        f"# {markdown_cell(name)}\n\nCheckpoint `{checkpoint_id}` in the store {markdown_cell(name_of(store))}. "
        f"[In the explorer]({place}), while circuit-insights serve shows that store.\n\n"
    )
    pages = {"layers": markdown_summary(store, checkpoint_id)}
    with open_published(store.catalog) as connection:
        judged = ("layer", "feature", "method", "clarity", "description")
        for which, order in (("best", "DESC"), ("worst", "ASC")):
            table = _table(connection, JUDGED.format(order), judged, checkpoint_id, n=N_SHOWN)
            pages[f"{which}-features"] = re.sub(FEATURE, rf"| \1 | [\2]({place}/feature/\1/\2) |", table)
        methods = ("metric", "method", "explainer", "judge", "features", "mean", "above shuffled ones")
        pages["methods"] = _table(connection, METHODS, methods, checkpoint_id)
        spent = ("model", "purpose", "questions", "kept answers", "tokens read", "written", "USD")
        pages["money"] = _table(connection, SPENT, spent, checkpoint_id)
        reasons = ("stage", "reason", "features", "from layer", "to layer", "for example")
        pages["failures"] = _table(connection, REASONS, reasons, checkpoint_id)
        runs = ("stage", "status", "started", "finished", "taken over", "of shards", "error", "flow run")
        table = _table(connection, RUNS, runs, checkpoint_id, n=4 * N_SHOWN)
        pages["runs"] = re.sub(rf"\| ({UUID}) \|$", r"| [\1](/runs/flow-run/\1) |", table, flags=re.MULTILINE)
    for page, text in pages.items():
        what = f"{markdown_cell(name)}: {page.replace('-', ' ')}"
        create_markdown_artifact(about + text, key=f"{slug(name)}-{page}", description=what)


def explorer_address() -> str:
    """The address of the explorer: $CIRCUIT_INSIGHTS_EXPLORER, or the default address of `serve`."""
    return os.environ.get("CIRCUIT_INSIGHTS_EXPLORER", "http://127.0.0.1:8765").rstrip("/")


def show_failure(name: str, error: Exception) -> None:
    """Show the reason why a run failed above Prefect's own report."""
    kind, reason = type(error).__name__, str(error)[:2000]
    text = f"# {markdown_cell(name)} failed\n\n{markdown_cell(kind)}: {markdown_cell(reason)}"
    what = f"{markdown_cell(name)}: why its last failed run failed"
    create_markdown_artifact(text, key=f"{slug(name)}-failed", description=what)


def slug(name: str) -> str:
    """A name in the form of Prefect's keys: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "checkpoint"


def _table(
    connection: duckdb.DuckDBPyConnection, query: str, titles: tuple[str, ...], checkpoint_id: str, **limits: int
) -> str:
    rows = connection.execute(query, {"id": checkpoint_id, **limits}).fetchall()
    if not rows:
        return "None."
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(_cell, row))} |" for row in rows)])


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else markdown_cell(str(value)[:200])
