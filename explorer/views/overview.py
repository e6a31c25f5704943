"""A checkpoint at a glance: finished stages, all layers, the best and the worst descriptions."""

from collections.abc import Sequence

from explorer.catalog import Panel, Reader, Row
from explorer.page import Page
from explorer.views.common import corpora_of, ingested_layers
from explorer.views.parameters import Checkpoint, Corpus

STAGES = {
    "ingest": "the model and its transcoders, in the store",
    "weightlens": "tokens and edges, from weights only",
    "activations": "densities, histograms and texts",
    "coactivation": "TWERA: edges weighted by how features fire together",
    "circuitlens": "causes of activations, their clusters and effects",
    "describe": "descriptions by every method",
    "evaluate": "scores of descriptions",
}
"""The stages in order, with what each adds to the pages."""

BINS_A_DECADE = 3
LEAST_DECADE = -6

STAGE_RUNS = """
    SELECT stage, status, started_at, finished_at, n_reused, n_shards, error FROM runs
    WHERE checkpoint_id = $checkpoint
    QUALIFY row_number() OVER (PARTITION BY stage ORDER BY started_at DESC) = 1 ORDER BY started_at
"""

LAYERS = "SELECT * FROM layer_summary WHERE checkpoint_id = $checkpoint ORDER BY layer"

ACTIVITY = """
    SELECT layer, count(*) AS n_features, count(*) FILTER (is_dead) AS n_dead,
           median(density) FILTER (NOT is_dead) AS median_density
    FROM features WHERE checkpoint_id = $checkpoint AND corpus_id = $corpus GROUP BY layer ORDER BY layer
"""

DENSITIES = """
    SELECT layer, greatest($least, floor($bins * log10(density)))::INTEGER AS bin, count(*) AS n FROM features
    WHERE checkpoint_id = $checkpoint AND corpus_id = $corpus AND n_active > 0 GROUP BY ALL ORDER BY ALL
"""

CLARITY = """
    SELECT layer, method, explainer, judge, n_features, mean, low, high, lift, lift_low, lift_high
    FROM method_comparison
    WHERE checkpoint_id = $checkpoint AND metric = 'clarity' AND method NOT LIKE 'control:%' AND n_features > 0
    ORDER BY method, explainer, judge, layer
"""

JUDGED = """
    SELECT s.layer, s.feature, s.method, s.explainer, s.judge, s.value AS clarity, s.low, s.high, d.text AS description
    FROM scores s JOIN descriptions d USING (checkpoint_id, layer, feature, method, explainer)
    WHERE s.checkpoint_id = $checkpoint AND s.metric = 'clarity' AND s.value IS NOT NULL AND d.cluster = -1
      AND s.method NOT LIKE 'control:%'
    QUALIFY row_number() OVER (PARTITION BY s.layer, s.feature ORDER BY s.value {order}, s.method) = 1
    ORDER BY s.value {order}, s.layer, s.feature LIMIT 12
"""

FAILURES = """
    SELECT f.stage, f.reason, count(*) AS n, min(f.layer) AS first_layer, max(f.layer) AS last_layer,
           min(f.detail) AS example, arg_min(f.layer, f.detail) AS example_layer,
           arg_min(f.feature, f.detail) AS example_feature
    FROM failures f JOIN runs r USING (run_id, stage) WHERE r.checkpoint_id = $checkpoint
    GROUP BY ALL ORDER BY n DESC
"""


def overview(reader: Reader, checkpoint: Checkpoint, corpus: Corpus = None) -> Page:
    """A checkpoint at a glance."""
    row = reader.checkpoint(checkpoint)
    checkpoint_id = row["checkpoint_id"]
    corpus_id, corpora = corpora_of(reader, checkpoint_id, corpus)
    values = {
        "checkpoint": checkpoint_id, "corpus": corpus_id, "least": LEAST_DECADE * BINS_A_DECADE, "bins": BINS_A_DECADE
    }  # fmt: skip
    queries = {
        "stages": ("Stages", STAGE_RUNS),
        "layers": ("Layers", LAYERS),
        "activity": ("Activity by layer", ACTIVITY),
        "densities": ("Densities", DENSITIES),
        "clarity": ("Clarity by method", CLARITY),
        "best": ("Clearest descriptions", JUDGED.format(order="DESC")),
        "worst": ("Descriptions with the lowest clarity", JUDGED.format(order="ASC")),
        "failures": ("Without a result", FAILURES),
    }
    panels = {name: reader.kept_panel(title, sql, values) for name, (title, sql) in queries.items()}
    done = {stage["stage"]: stage for stage in panels["stages"].rows}
    facts = {
        "corpus": corpus_id,
        "corpora": corpora,
        "stages": [{"stage": name, "gives": gives, "run": done.get(name)} for name, gives in STAGES.items()],
        "layers": _layers(row["n_layers"], ingested_layers(row), panels),
        "n_ingested": len(ingested_layers(row)),
        "methods": _methods(panels["clarity"]),
        "decades": list(range(LEAST_DECADE, 1)),
    }
    return Page(row["name"], row, facts, panels)


def _layers(n_layers: int, ingested: Sequence[int], panels: dict[str, Panel]) -> list[dict[str, object]]:
    """All results about each layer in one place: quality, descriptions, activity, and its densities as counts in
    bins."""
    by_layer = {name: {row["layer"]: row for row in panels[name].rows} for name in ("layers", "activity")}
    counts: dict[int, dict[int, int]] = {}
    for row in panels["densities"].rows:
        counts.setdefault(row["layer"], {})[row["bin"]] = row["n"]
    bins = range(LEAST_DECADE * BINS_A_DECADE, 0)
    return [
        {
            "layer": layer,
            "ingested": layer in ingested,
            "summary": by_layer["layers"].get(layer),
            "activity": by_layer["activity"].get(layer),
            "densities": [counts[layer].get(at, 0) for at in bins] if layer in counts else [],
        }
        for layer in range(n_layers)
    ]


def _methods(clarity: Panel) -> list[Row]:
    """Methods as rows and layers as columns: the clarity of each with its interval."""
    found: dict[tuple[str, str, str], Row] = {}
    for row in clarity.rows:
        name = (row["method"], row["explainer"], row["judge"])
        method = {"method": name[0], "explainer": name[1], "judge": name[2], "layers": {}}
        found.setdefault(name, method)["layers"][row["layer"]] = row
    return list(found.values())
