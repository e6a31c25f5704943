"""One attention head: the features it contributes to, the distances it reads from, and why, from attributed
activations."""

from typing import Annotated

from fastapi import Path

from explorer.catalog import Reader
from explorer.page import Page
from explorer.views.common import LABELS, corpora_of
from explorer.views.parameters import Checkpoint, Corpus, Layer
from interp.descriptions.preference import PREFERRED
from storage.catalog.heads import head_features, head_offsets, head_reasons

N_SHOWN = 60
N_REASONS = 20
FARTHEST = -12

OF = "checkpoint_id = $checkpoint AND corpus_id = $corpus"
OF_CONTRIBUTIONS = f"{OF} AND source_layer = $layer AND source_index = $head"

FED = f"""
    WITH found AS (
        SELECT * FROM ({head_features(OF_CONTRIBUTIONS)})
        ORDER BY rate * mean_share DESC, layer, feature LIMIT $n_shown
    )
    SELECT found.layer, found.feature, n_samples, rate, base_rate, lift, mean_score, mean_share, usual_offset,
           d.text AS description
    FROM found LEFT JOIN {LABELS} d USING (layer, feature)
    ORDER BY rate * mean_share DESC, found.layer, found.feature
"""

PLACES = f"""
    SELECT greatest("offset", $farthest) AS relative_position, sum(n) AS n, sum(score) AS score
    FROM ({head_offsets(OF_CONTRIBUTIONS)}) GROUP BY ALL ORDER BY relative_position DESC
"""

REASONS = f"""
    WITH pairs AS (
        SELECT * FROM ({head_reasons(f"{OF} AND head_layer = $layer AND head = $head")})
        ORDER BY n * abs(mean_score) DESC, query_kind, query_index, key_kind, key_index LIMIT $n_reasons
    ), found AS (
        SELECT query_layer AS layer, query_index AS feature FROM pairs WHERE query_kind = 'feature'
        UNION SELECT key_layer, key_index FROM pairs WHERE key_kind = 'feature'
    )
    SELECT pairs.*, q.text AS query_description, k.text AS key_description FROM pairs
    LEFT JOIN {LABELS} q ON query_kind = 'feature' AND (q.layer, q.feature) = (query_layer, query_index)
    LEFT JOIN {LABELS} k ON key_kind = 'feature' AND (k.layer, k.feature) = (key_layer, key_index)
    ORDER BY n * abs(mean_score) DESC, query_kind, query_index, key_kind, key_index
"""

HEADS = """
    SELECT source_layer AS layer, source_index AS head, count(*) AS n FROM contributions
    WHERE checkpoint_id = $checkpoint AND corpus_id = $corpus AND kind = 'head'
    GROUP BY ALL ORDER BY source_layer, source_index
"""


def head_page(
    reader: Reader,
    checkpoint: Checkpoint,
    layer: Layer,
    head: Annotated[int, Path(ge=0, le=10_000, description="Head of the layer, from 0.")],
    corpus: Corpus = None,
) -> Page:
    """The features that a head contributes to, where it reads from, and why it attends there."""
    row = reader.checkpoint(checkpoint)
    corpus_id, corpora = corpora_of(reader, row["checkpoint_id"], corpus)
    values = {
        "checkpoint": row["checkpoint_id"], "corpus": corpus_id, "layer": layer, "head": head, "n_shown": N_SHOWN,
        "farthest": FARTHEST, "preferred": list(PREFERRED),
    }  # fmt: skip
    panels = {
        "fed": reader.panel("Features it contributes to", FED, values),
        "reasons": reader.panel("Why it attends there", REASONS, values | {"n_reasons": N_REASONS}),
        "places": reader.panel("From where", PLACES, values),
        "heads": reader.kept_panel("Heads", HEADS, values),
    }
    facts = {"layer": layer, "head": head, "corpus": corpus_id, "corpora": corpora, "farthest": FARTHEST}
    return Page(f"Head {layer}.{head}", row, facts, panels)
