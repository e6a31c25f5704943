"""One feature: all its results, with links."""

import re

from explorer.catalog import Panel, Reader, Row
from explorer.page import Page
from explorer.views.common import LABELS, check_feature, corpora_of, ingested_layers
from explorer.views.parameters import Checkpoint, Corpus, Feature, Layer
from interp.descriptions.preference import PREFERRED

METRICS = (
    "clarity", "responsiveness", "purity", "faithfulness", "detection", "fuzzing", "simulation", "stability"
)  # fmt: skip
"""Metrics of descriptions, in the order of columns."""

N_TOKENS = 16
N_EDGES = 12
N_CAUSES = 10
N_GREATEST = 12
N_OF_CLUSTER = 6

ACTIVITY = """
    SELECT f.*, (SELECT avg((o.density < f.density)::INTEGER) FROM features o
                 WHERE o.checkpoint_id = $checkpoint AND o.corpus_id = $corpus AND o.layer = $layer) AS share_sparser
    FROM features f
    WHERE f.checkpoint_id = $checkpoint AND f.corpus_id = $corpus AND f.layer = $layer AND f.feature = $feature
"""

DESCRIPTIONS = """
    SELECT method, explainer, cluster, text, tokens, created_at FROM descriptions
    WHERE checkpoint_id = $checkpoint AND layer = $layer AND feature = $feature
      AND (corpus_id IS NULL OR corpus_id = $corpus OR $corpus IS NULL)
    ORDER BY cluster, coalesce(list_position($preferred, method), 99), method, explainer
"""

SCORES = """
    WITH mine AS (
        SELECT * FROM scores
        WHERE checkpoint_id = $checkpoint AND corpus_id = $corpus AND layer = $layer AND feature = $feature
    )
    SELECT s.method, s.explainer, s.judge, s.metric, s.value, s.low, s.high, s.n, s.reason,
           shuffled.value AS shuffled, constant.value AS constant
    FROM mine s
    LEFT JOIN mine shuffled ON (shuffled.explainer, shuffled.judge, shuffled.metric)
         = (s.explainer, s.judge, s.metric) AND shuffled.method = 'control:shuffled:' || s.method
    LEFT JOIN mine constant ON (constant.explainer, constant.judge, constant.metric)
         = (s.explainer, s.judge, s.metric) AND constant.method = 'control:constant'
    WHERE s.method NOT LIKE 'control:%' ORDER BY s.metric, s.method, s.explainer, s.judge
"""

FAILURES = """
    SELECT f.stage, f.reason, f.detail FROM failures f JOIN runs r USING (run_id, stage)
    WHERE r.checkpoint_id = $checkpoint AND f.layer = $layer AND f.feature = $feature ORDER BY r.started_at, f.stage
"""

TOKENS = """
    SELECT c.side, c.sign, c.rank, c.token_id, t.text, c.score, c.z_score, c.activation, c.validated,
           c.source_layer, c.source_feature
    FROM token_candidates c
    LEFT JOIN tokens t ON t.checkpoint_id = $checkpoint AND t.token_id = c.token_id
    WHERE c.checkpoint_id = $checkpoint AND c.layer = $layer AND c.feature = $feature
    QUALIFY row_number() OVER (PARTITION BY side, sign, validated, source_layer IS NULL ORDER BY rank) <= $n_tokens
    ORDER BY side, sign DESC, validated DESC, source_layer IS NOT NULL, rank
"""

EDGES = """
    WITH edges AS (
        SELECT {other}_layer AS layer, {other}_feature AS feature, max(virtual_weight) AS virtual_weight,
               max(z_score) AS z_score, max(twera) AS twera, max(twera_low) AS twera_low,
               max(twera_high) AS twera_high, max(n_coactive) AS n_coactive
        FROM feature_edges
        WHERE checkpoint_id = $checkpoint AND {this}_layer = $layer AND {this}_feature = $feature
          AND (corpus_id IS NULL OR corpus_id = $corpus)
        GROUP BY ALL
    ), found AS (
        SELECT * FROM edges
        ORDER BY abs(twera) DESC NULLS LAST, abs(virtual_weight) DESC, layer, feature LIMIT $n_edges
    )
    SELECT found.*, d.text AS description
    FROM found LEFT JOIN {labels} d USING (layer, feature)
    ORDER BY abs(twera) DESC NULLS LAST, abs(virtual_weight) DESC, layer, feature
"""

CAUSES = """
    WITH mine AS (
        SELECT * FROM contributions
        WHERE checkpoint_id = $checkpoint AND corpus_id = $corpus AND layer = $layer AND feature = $feature
    ), causes AS (
        SELECT kind, source_layer AS layer, source_index AS feature, count(DISTINCT sample) AS n_samples,
               sum(share) / (SELECT count(DISTINCT sample) FROM mine) AS mean_share,
               mode(relative_position) AS usual_position
        FROM mine WHERE kind IN ('head', 'token', 'feature', 'mlp') GROUP BY ALL
    ), found AS (
        SELECT * FROM causes
        QUALIFY row_number() OVER (PARTITION BY kind ORDER BY mean_share DESC, layer, feature) <= $n_causes
    )
    SELECT kind, found.layer AS source_layer, found.feature AS source_index, n_samples, mean_share, usual_position,
           CASE kind WHEN 'token' THEN t.text WHEN 'feature' THEN d.text END AS text
    FROM found LEFT JOIN {labels} d ON (d.layer, d.feature) = (found.layer, found.feature)
    LEFT JOIN tokens t ON t.checkpoint_id = $checkpoint AND t.token_id = found.feature
    ORDER BY kind, mean_share DESC, source_layer, source_index
"""

CAUSED = """
    WITH found AS (
        SELECT target_layer AS layer, target_feature AS feature, n_samples, mean_share FROM contribution_edges
        WHERE checkpoint_id = $checkpoint AND corpus_id = $corpus
          AND source_layer = $layer AND source_feature = $feature
        ORDER BY n_samples * mean_share DESC, layer, feature LIMIT $n_causes
    )
    SELECT found.*, d.text FROM found LEFT JOIN {labels} d USING (layer, feature)
    ORDER BY n_samples * mean_share DESC, layer, feature
"""

EFFECTS = """
    SELECT e.position, e.token_id, t.text, e.effect FROM logit_effects e
    LEFT JOIN tokens t ON t.checkpoint_id = $checkpoint AND t.token_id = e.token_id
    WHERE e.checkpoint_id = $checkpoint AND e.corpus_id = $corpus AND e.layer = $layer AND e.feature = $feature
      AND e.sample = -1
    QUALIFY row_number() OVER (PARTITION BY e.position, e.effect > 0 ORDER BY abs(e.effect) DESC) <= $n_causes
    ORDER BY e.position, e.effect DESC
"""

CLUSTERS = """
    SELECT cluster, n_samples, share, signature, stability FROM clusters
    WHERE checkpoint_id = $checkpoint AND corpus_id = $corpus AND layer = $layer AND feature = $feature
    ORDER BY cluster < 0, cluster
"""

CONTEXTS = """
    WITH ranked AS (
        SELECT sample, row_number() OVER (ORDER BY activation DESC, sample) AS of_all,
               row_number() OVER (PARTITION BY cluster ORDER BY activation DESC, sample) AS of_cluster,
               row_number() OVER (PARTITION BY quantile_bin ORDER BY sample) AS of_bin
        FROM samples
        WHERE checkpoint_id = $checkpoint AND corpus_id = $corpus AND layer = $layer AND feature = $feature
    )
    SELECT c.* EXCLUDE (checkpoint_id, corpus_id, layer, feature), of_all, of_cluster, of_bin
    FROM contexts c JOIN ranked USING (sample)
    WHERE c.checkpoint_id = $checkpoint AND c.corpus_id = $corpus AND c.layer = $layer AND c.feature = $feature
      AND (of_all <= $n_greatest OR (cluster IS NOT NULL AND of_cluster <= $n_of_cluster)
           OR (quantile_bin IS NOT NULL AND of_bin = 1))
    ORDER BY of_all
"""

QUERIES = {
    "activity": ("Activity", ACTIVITY),
    "descriptions": ("Descriptions", DESCRIPTIONS),
    "scores": ("Scores", SCORES),
    "failures": ("Why there is no result", FAILURES),
    "clusters": ("Mechanisms", CLUSTERS),
    "contexts": ("Contexts", CONTEXTS),
    "tokens": ("Tokens by weights", TOKENS),
    "upstream": ("Upstream features", EDGES.format(this="target", other="source", labels=LABELS)),
    "downstream": ("Downstream features", EDGES.format(this="source", other="target", labels=LABELS)),
    "causes": ("What made it fire", CAUSES.format(labels=LABELS)),
    "caused": ("Features that it made fire", CAUSED.format(labels=LABELS)),
    "effects": ("Effects on the next tokens", EFFECTS),
}


def feature_page(reader: Reader, checkpoint: Checkpoint, layer: Layer, feature: Feature, corpus: Corpus = None) -> Page:
    """All results about one feature."""
    row = reader.checkpoint(checkpoint)
    check_feature(row, layer, feature)
    corpus_id, corpora = corpora_of(reader, row["checkpoint_id"], corpus)
    values = {
        "checkpoint": row["checkpoint_id"], "corpus": corpus_id, "layer": layer, "feature": feature,
        "preferred": list(PREFERRED), "n_tokens": N_TOKENS, "n_edges": N_EDGES, "n_causes": N_CAUSES,
        "n_greatest": N_GREATEST, "n_of_cluster": N_OF_CLUSTER,
    }  # fmt: skip
    panels = {name: reader.panel(title, sql, values) for name, (title, sql) in QUERIES.items()}
    layers, last = ingested_layers(row), row["d_transcoder"] - 1
    below = max((at for at in layers if at < layer), default=None)
    above = min((at for at in layers if at > layer), default=None)
    facts = {
        "layer": layer,
        "feature": feature,
        "corpus": corpus_id,
        "corpora": corpora,
        "label": next((d["text"] for d in panels["descriptions"].rows if d["cluster"] == -1), None),
        "metrics": _metrics(panels["scores"]),
        "methods": _methods(panels["descriptions"], panels["scores"]),
        "attribution": [s for s in panels["scores"].rows if s["judge"] == "none"],
        "signatures": {str(c["cluster"]): [signature_part(p) for p in c["signature"]] for c in panels["clusters"].rows},
        "has_text": next((one["has_text"] for one in corpora if one["corpus_id"] == corpus_id), None),
        "previous": (layer, feature - 1) if feature else None if below is None else (below, last),
        "next": (layer, feature + 1) if feature < last else None if above is None else (above, 0),
    }  # fmt: skip
    return Page(f"Layer {layer}, feature {feature}", row, facts, panels)


def _metrics(scores: Panel) -> list[str]:
    """The metrics of the feature's descriptions, in the usual order, others last."""
    found = {row["metric"] for row in scores.rows if row["judge"] != "none"}
    return [name for name in METRICS if name in found] + sorted(found - set(METRICS))


def _methods(descriptions: Panel, scores: Panel) -> list[dict[str, object]]:
    """Every description of the whole feature, with its scores by judge and metric."""
    judged: dict[tuple[str, str], dict[str, dict[str, Row]]] = {}
    for row in scores.rows:
        if row["judge"] != "none":
            judges = judged.setdefault((row["method"], row["explainer"]), {})
            judges.setdefault(row["judge"], {})[row["metric"]] = row
    return [
        {
            "method": row["method"], "explainer": row["explainer"], "text": row["text"],
            "judges": judged.get((row["method"], row["explainer"]), {}),
        }
        for row in descriptions.rows if row["cluster"] == -1
    ]  # fmt: skip


def signature_part(text: str) -> dict[str, str | int | None]:
    """The contributors that samples of a mechanism share, in words, with what to link: `L3 #17` is a feature, `L2 H1
    −1` a head, `L2 MLP −1` an MLP."""
    feature = re.fullmatch(r"L(\d+) #(\d+)", text)
    if feature:
        layer, index = map(int, feature.groups())
        return {"kind": "feature", "layer": layer, "index": index, "words": f"feature {layer}/{index}"}
    part = re.fullmatch(r"L(\d+) (?:H(\d+)|MLP) [−-]?(\d+)", text)
    if not part:
        return {"kind": "other", "layer": None, "index": None, "words": text}
    layer, head, back = part.groups()
    where = "at the token itself" if int(back) == 0 else f"from {back} token{'s' if int(back) > 1 else ''} before"
    if head is None:
        return {"kind": "mlp", "layer": int(layer), "index": None, "words": f"MLP {layer} {where}"}
    layer, index = int(layer), int(head)
    return {"kind": "head", "layer": layer, "index": index, "words": f"head {layer}.{index} reading {where}"}
