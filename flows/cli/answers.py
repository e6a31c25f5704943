"""The answers of commands with `--json`: one object each, whose fields docs/json.md describes."""

from collections.abc import Sequence
from pathlib import Path

import duckdb

from flows.costs.plan import STARTUP_S, CostPlan
from flows.inputs.named import chosen_checkpoint
from storage.catalog.published import open_published

SCHEMA = 1
"""Version of all answers. A new field does not change it; removing a field or changing its meaning does."""

Rows = list[dict[str, object]]

FEATURE_TABLES = {
    "activity": "SELECT * EXCLUDE (checkpoint_id, layer, feature) FROM features WHERE {key} ORDER BY corpus_id",
    "descriptions": """SELECT method, explainer, corpus_id, cluster, text, tokens, coverage FROM descriptions
        WHERE {key} ORDER BY method, explainer, cluster""",
    "scores": """SELECT method, explainer, judge, metric, value, low, high, n, reason FROM scores
        WHERE {key} ORDER BY method, explainer, judge, metric""",
    "tokens": """SELECT c.side, c.sign, c.rank, c.token_id, t.text, c.score, c.z_score, c.activation, c.validated,
        c.source_layer, c.source_feature FROM token_candidates c LEFT JOIN tokens t USING (checkpoint_id, token_id)
        WHERE {key} ORDER BY c.side, c.sign DESC, c.rank""",
    "upstream": """SELECT corpus_id, source_layer, source_feature, virtual_weight, z_score, twera, twera_low,
        twera_high, n_coactive FROM feature_edges
        WHERE checkpoint_id = $checkpoint AND target_layer = $layer AND target_feature = $feature
        ORDER BY abs(twera) DESC NULLS LAST, abs(virtual_weight) DESC""",
    "clusters": "SELECT * EXCLUDE (checkpoint_id, layer, feature) FROM clusters WHERE {key} ORDER BY cluster",
    "samples": """SELECT corpus_id, sample, cluster, quantile_bin, activation, before, token, after FROM contexts
        WHERE {key} ORDER BY activation DESC, sample""",
}
"""Queries about a feature, by the field of the answer."""

KEY = "checkpoint_id = $checkpoint AND layer = $layer AND feature = $feature"


def feature_answer(catalog: Path, layer: int, feature: int, checkpoint: str | None) -> dict[str, object]:
    """All results about one feature.

    Raises:
        ValueError: there is no such feature, or there are several checkpoints and none is named.
    """
    with open_published(catalog) as connection:
        chosen = chosen_checkpoint(connection, checkpoint)
        if (problem := chosen.no_feature(layer, feature)) is not None:
            raise ValueError(problem)
        values: dict[str, str | int] = {"checkpoint": chosen.checkpoint_id, "layer": layer, "feature": feature}
        found = {name: _rows(connection, sql.format(key=KEY), values) for name, sql in FEATURE_TABLES.items()}
    return {
        "schema": SCHEMA,
        "checkpoint_id": chosen.checkpoint_id,
        "name": chosen.name,
        "layer": layer,
        "feature": feature,
        **found,
    }


def evaluation_answer(catalog: Path, checkpoint_id: str) -> dict[str, object]:
    """The scores of a checkpoint's descriptions, by method and layer."""
    query = """SELECT * EXCLUDE (checkpoint_id) FROM method_comparison WHERE checkpoint_id = $checkpoint
               ORDER BY corpus_id, layer, explainer, judge, metric, method"""
    with open_published(catalog) as connection:
        rows = _rows(connection, query, {"checkpoint": checkpoint_id})
    return {"schema": SCHEMA, "checkpoint_id": checkpoint_id, "methods": rows}


def plan_answer(found: CostPlan, store: str, not_ready: Sequence[str], notes: Sequence[str]) -> dict[str, object]:
    """The plan of a run: its steps and what they take."""
    steps = [step._asdict() for step in found.steps]
    is_work = any(step.todo for step in found.steps)
    return {
        "schema": SCHEMA,
        "store": store,
        "checkpoint_id": None if found.checkpoint_plan is None else found.checkpoint_plan.checkpoint_id,
        "from_records": found.from_records,
        "steps": steps,
        "seconds": sum(step.seconds for step in found.steps) + STARTUP_S * is_work,
        "disk_bytes": sum(step.disk_bytes for step in found.steps),
        "memory_bytes": max((step.memory_bytes for step in found.steps if step.todo), default=0),
        "usd": sum(step.usd for step in found.steps),
        "left_out": {} if found.checkpoint_plan is None else dict(found.checkpoint_plan.left_out),
        "not_ready": list(not_ready),
        "notes": list(notes),
    }


def _rows(connection: duckdb.DuckDBPyConnection, query: str, values: dict[str, str | int]) -> Rows:
    used = {name: value for name, value in values.items() if f"${name}" in query}
    cursor = connection.execute(query, used)
    names = [column[0] for column in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
