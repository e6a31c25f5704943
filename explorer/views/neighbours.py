"""Features of the layer with similar decoders."""

from explorer.catalog import Panel, Reader
from explorer.neighbours import nearest
from explorer.page import Page
from explorer.views.common import LABELS, check_feature
from explorer.views.parameters import Checkpoint, Feature, Layer
from interp.descriptions.preference import PREFERRED
from storage.store import Store

N_SHOWN = 24

NAMED = """
    WITH found AS (
        SELECT $layer::SMALLINT AS layer, unnest($features)::INTEGER AS feature, unnest($cosines)::DOUBLE AS cosine
    )
    SELECT found.*, d.text AS description FROM found LEFT JOIN {labels} d USING (layer, feature)
    ORDER BY cosine DESC, feature
"""


def neighbours_page(reader: Reader, checkpoint: Checkpoint, layer: Layer, feature: Feature) -> Page:
    """Features of the layer with similar decoders."""
    row = reader.checkpoint(checkpoint)
    check_feature(row, layer, feature)
    found = nearest(Store(reader.store).checkpoint(row["checkpoint_id"]), layer, feature, N_SHOWN)
    panels: dict[str, Panel] = {}
    if found:
        values = {
            "checkpoint": row["checkpoint_id"], "layer": layer, "preferred": list(PREFERRED),
            "features": [one for one, _ in found], "cosines": [round(cosine, 6) for _, cosine in found],
        }  # fmt: skip
        panels["neighbours"] = reader.panel("Neighbours by decoder", NAMED.format(labels=LABELS), values)
    facts = {"layer": layer, "feature": feature, "has_arrays": found is not None}
    return Page(f"Neighbours of {layer}/{feature}", row, facts, panels)
