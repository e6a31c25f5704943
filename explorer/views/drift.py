"""Two checkpoints: which features were kept, moved, born or died."""

from typing import Annotated, Literal

from fastapi import Path, Query
from pydantic import BaseModel, Field

from explorer.catalog import Reader, Row
from explorer.errors import NotFoundError
from explorer.page import Page

PAGE_ROWS = 50

COMPARED = """
    SELECT checkpoint_a, checkpoint_b, count(*) AS n, count(*) FILTER (fate = 'kept') AS n_kept,
           count(*) FILTER (fate = 'moved') AS n_moved, count(*) FILTER (fate = 'born') AS n_born,
           count(*) FILTER (fate = 'died') AS n_died
    FROM feature_matches GROUP BY ALL ORDER BY ALL
"""

FATES = """
    SELECT layer, fate, count(*) AS n, avg(cosine_enc) AS cosine_enc, avg(cosine_dec) AS cosine_dec,
           avg(activation_correlation) AS correlation
    FROM feature_matches WHERE checkpoint_a = $a AND checkpoint_b = $b GROUP BY ALL ORDER BY ALL
"""

SURPRISES = """
    SELECT coalesce(surprise, 'as the weights say') AS surprise, count(*) AS n
    FROM drift WHERE checkpoint_a = $a AND checkpoint_b = $b GROUP BY ALL ORDER BY n DESC
"""

CHANGES = """
    SELECT layer, feature_a, feature_b, fate, cosine_enc, cosine_dec, activation_correlation, agreement, surprise,
           text_a, text_b
    FROM drift WHERE checkpoint_a = $a AND checkpoint_b = $b{conditions}
    ORDER BY surprise IS NULL, agreement NULLS LAST, layer, feature_a, feature_b LIMIT $n_rows OFFSET $offset
"""

Fate = Literal["kept", "moved", "born", "died", ""]
Surprise = Literal["description changed", "description stayed", ""]


class ChangeFilters(BaseModel):
    """Which changes the page lists."""

    fate: Annotated[Fate, Field(description="Only these.")] = ""
    surprise: Annotated[Surprise, Field(description="Only these.")] = ""
    layer: Annotated[int | Literal[""], Field(description="Only this layer.")] = ""
    page: Annotated[int, Field(ge=1, le=10_000)] = 1


NO_FILTERS = ChangeFilters()

Id = Annotated[str, Path(max_length=100, description="Id or name of a checkpoint.")]


def drifts_page(reader: Reader) -> Page:
    """The pairs of checkpoints that were compared."""
    names = {row["checkpoint_id"]: row for row in reader.checkpoints}
    return Page("Drift", None, {"names": names}, {"compared": reader.kept_panel("Compared", COMPARED, {})})


def drift_page(
    reader: Reader,
    a: Id,
    b: Id,
    filters: Annotated[ChangeFilters, Query()] = NO_FILTERS,
) -> Page:
    """The changes of features between two checkpoints."""
    rows = [reader.checkpoint(a), reader.checkpoint(b)]
    wanted = filters.model_dump(exclude={"page"})
    values: dict[str, object] = {
        "a": rows[0]["checkpoint_id"], "b": rows[1]["checkpoint_id"], **wanted,
        "n_rows": PAGE_ROWS, "offset": (filters.page - 1) * PAGE_ROWS,
    }  # fmt: skip
    fates = reader.kept_panel("Changes of features", FATES, values)
    if not fates.rows:
        raise NotFoundError(f"{rows[0]['name']} and {rows[1]['name']} have not been compared; use compare-checkpoints")
    conditions = "".join(f" AND {name} = ${name}" for name, value in wanted.items() if value != "")
    panels = {
        "fates": fates,
        "surprises": reader.kept_panel("Descriptions against weights", SURPRISES, values),
        "changes": reader.panel("Features", CHANGES.format(conditions=conditions), values),
    }
    by_layer: dict[int, dict[str, Row]] = {}
    for row in fates.rows:
        by_layer.setdefault(row["layer"], {})[row["fate"]] = row
    facts = {
        "a": rows[0], "b": rows[1], "layers": by_layer, "filters": wanted, "page": filters.page, "page_rows": PAGE_ROWS,
    }  # fmt: skip
    return Page(f"{rows[0]['name']} to {rows[1]['name']}", rows[1], facts, panels)
