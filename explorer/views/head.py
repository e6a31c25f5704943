"""One attention head: which features it feeds, from where, by the activations that were attributed."""

from typing import Annotated

from fastapi import Path

from explorer.catalog import Reader
from explorer.page import Page
from explorer.views.common import LABELS, corpora_of
from explorer.views.parameters import Checkpoint, Corpus, Layer
from interp.descriptions.preference import PREFERRED

N_SHOWN = 60
FARTHEST = -12

FED = """
    WITH found AS (
        SELECT layer, feature, count(DISTINCT sample) AS n_samples, sum(share) AS share,
               sum(score) / count(DISTINCT sample) AS mean_score, mode(relative_position) AS usual_position
        FROM contributions
        WHERE checkpoint_id = $checkpoint AND corpus_id = $corpus AND kind = 'head'
          AND source_layer = $layer AND source_index = $head
        GROUP BY ALL ORDER BY share DESC, layer, feature LIMIT $n_shown
    )
    SELECT found.*, d.text AS description FROM found LEFT JOIN {labels} d USING (layer, feature)
    ORDER BY share DESC, layer, feature
"""

PLACES = """
    SELECT greatest(relative_position, $farthest) AS relative_position, count(*) AS n, sum(score) AS score
    FROM contributions
    WHERE checkpoint_id = $checkpoint AND corpus_id = $corpus AND kind = 'head'
      AND source_layer = $layer AND source_index = $head
    GROUP BY ALL ORDER BY relative_position DESC
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
    """Which features a head feeds, and from where it brings what it brings."""
    row = reader.checkpoint(checkpoint)
    corpus_id, corpora = corpora_of(reader, row["checkpoint_id"], corpus)
    values = {
        "checkpoint": row["checkpoint_id"], "corpus": corpus_id, "layer": layer, "head": head, "n_shown": N_SHOWN,
        "farthest": FARTHEST, "preferred": list(PREFERRED),
    }  # fmt: skip
    panels = {
        "fed": reader.panel("Features that it feeds", FED.format(labels=LABELS), values),
        "places": reader.panel("From where", PLACES, values),
        "heads": reader.kept_panel("Heads", HEADS, values),
    }
    facts = {"layer": layer, "head": head, "corpus": corpus_id, "corpora": corpora, "farthest": FARTHEST}
    return Page(f"Head {layer}.{head}", row, facts, panels)
