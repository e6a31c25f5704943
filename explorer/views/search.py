"""Search for features by words in their descriptions and in the texts on which they fire."""

from typing import Annotated, Literal

from fastapi import Query

from explorer.catalog import Panel, Reader, Row
from explorer.errors import BadRequestError
from explorer.links import url
from explorer.page import Facts, Page
from explorer.views.common import ingested_layers
from explorer.views.compare import place_of
from explorer.views.parameters import Checkpoint
from explorer.views.tokens import NAMED

N_SHOWN = 25
N_TOKENS = 30


def search_page(
    reader: Reader,
    checkpoint: Checkpoint,
    q: Annotated[
        str, Query(max_length=200, description='Words, "phrases", beginnings* of words, or LAYER/FEATURE.')
    ] = "",
    layer: Annotated[int | Literal[""], Query(description="Only features of this layer.")] = "",
) -> Page:
    """Search for features by words in their descriptions and in the texts on which they fire."""
    row = reader.checkpoint(checkpoint)
    facts: Facts = {
        "q": q,
        "layer": None if layer == "" else layer,
        "ready": True,
        "descriptions": [],
        "contexts": [],
        "alike": None,
        "alike_reason": None,
    }
    panels: dict[str, Panel] = {}
    place = _feature(row, q)
    if place is not None:
        facts["feature"] = place
        at = url("feature", checkpoint=row["checkpoint_id"], layer=place[0], feature=place[1])
        return Page(f"Search: {q}", row, facts, panels, at)
    if q.strip():
        found = reader.search(q, row["checkpoint_id"], facts["layer"], N_SHOWN)
        facts["ready"] = found is not None
        if found is not None:
            facts["descriptions"], facts["contexts"] = found
        alike = reader.alike(q, row["checkpoint_id"], facts["layer"], N_SHOWN)
        if alike is not None:
            facts["alike"], facts["alike_reason"] = alike
        panels["tokens"] = reader.panel("Tokens", NAMED, {"checkpoint": row["checkpoint_id"], "words": q}, N_TOKENS)
    return Page(f"Search: {q}" if q else "Search", row, facts, panels)


def _feature(checkpoint: Row, q: str) -> tuple[int, int] | None:
    """The feature that a query names, if it names an existing one."""
    try:
        layer, feature = place_of(q)
    except BadRequestError:
        return None
    there = layer in ingested_layers(checkpoint) and feature < checkpoint["d_transcoder"]
    return (layer, feature) if there else None
