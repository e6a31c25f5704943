"""The table of features: with filters, sorting, pages, and downloads."""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import SpooledTemporaryFile
from typing import Annotated, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import FastAPI, Query
from fastapi import Path as InPath
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from explorer.catalog import Catalog, Reader, Row
from explorer.errors import BadRequestError
from explorer.links import PAGES
from explorer.page import Page
from explorer.views.common import LABELS, corpora_of, ingested_layers
from explorer.views.feature import METRICS
from explorer.views.parameters import Checkpoint
from interp.descriptions.preference import PREFERRED

PAGE_ROWS = 50
LAST_PAGE = 10_000
DOWNLOAD_ROWS = 1_000_000
DOWNLOAD_S = 60.0
SPOOLED_BYTES = 16_000_000

COLUMNS = {
    "density": "active at",
    "n_active": "tokens",
    "mean_activation": "mean",
    "max_activation": "greatest",
    "score": "score",
    "description": "description",
}
"""Columns besides layer and feature, and their headings."""

Sort = Literal["feature", "density", "n_active", "mean_activation", "max_activation", "score"]


class Filters(BaseModel):
    """Which features, in which order. A field that a form leaves empty is no filter."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    layer: int | None = Field(None, ge=0, le=1000)
    min_density: float | None = Field(None, ge=0, le=1)
    max_density: float | None = Field(None, ge=0, le=1)
    activity: Literal["alive", "dead"] | None = None
    described: Literal["described", "undescribed"] | None = None
    judged: Literal["judged", "unjudged"] | None = None
    method: str | None = Field(None, max_length=100)
    metric: str = Field("clarity", max_length=50)
    min_score: float | None = Field(None, ge=-1, le=1)
    max_score: float | None = Field(None, ge=-1, le=1)
    words: str | None = Field(None, max_length=200)
    sort: Sort = "feature"
    order: Literal["up", "down"] = "up"
    columns: list[str] = Field(list(COLUMNS), max_length=20)
    page: int = Field(1, ge=1, le=LAST_PAGE)
    corpus: str | None = Field(None, max_length=100)

    @model_validator(mode="before")
    @classmethod
    def without_empty(cls, given: object) -> object:
        """Remove empty fields, since forms send every field."""
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value not in ("", [""])}


METHODS = """
    SELECT method, count(*) AS n_described FROM descriptions
    WHERE checkpoint_id = $checkpoint AND cluster = -1 GROUP BY method
    ORDER BY coalesce(list_position($preferred, method), 99), method
"""

SCORED = """
    SELECT DISTINCT metric FROM scores WHERE checkpoint_id = $checkpoint AND judge <> 'none' ORDER BY metric
"""

ALL_FEATURES = """
        SELECT l.range::SMALLINT AS layer, f.range::INTEGER AS feature, NULL::DOUBLE AS density,
               NULL::BIGINT AS n_active, NULL::DOUBLE AS mean_activation, NULL::FLOAT AS max_activation,
               NULL::BOOLEAN AS is_dead
        FROM (SELECT unnest($layers) AS range) l, range($n_features) f
"""
"""Before a corpus was read, only the numbers of features are known."""

READ_FEATURES = """
        SELECT layer, feature, density, n_active, mean_activation, max_activation, is_dead FROM features
        WHERE checkpoint_id = $checkpoint AND corpus_id = $corpus
"""

FITTING = """
    WITH judged AS (
        SELECT layer, feature, max(value) AS score FROM scores
        WHERE checkpoint_id = $checkpoint AND corpus_id = $corpus AND metric = $metric AND judge <> 'none'
          AND method NOT LIKE 'control:%'{by_method} GROUP BY ALL
    ), every AS ({base}), fitting AS (
        SELECT f.layer, f.feature, f.density, f.n_active, f.mean_activation, f.max_activation, j.score
        FROM every f LEFT JOIN judged j USING (layer, feature)
        WHERE {conditions}
    )"""

COUNT = "\n    SELECT count(*) AS n FROM fitting"

SHOWN = """, found AS (
        SELECT *, count(*) OVER () AS n_fitting FROM fitting
        ORDER BY {order}, layer, feature LIMIT $n_rows OFFSET $offset
    )
    SELECT found.*, d.text AS description FROM found LEFT JOIN {labels} d USING (layer, feature)
    ORDER BY {order}, layer, feature
"""

CONDITIONS = {
    "layer": "f.layer = $layer",
    "min_density": "f.density >= $min_density",
    "max_density": "f.density <= $max_density",
    "min_score": "j.score >= $min_score",
    "max_score": "j.score <= $max_score",
}

DESCRIBED = """(f.layer, f.feature) {within} (
              SELECT (layer, feature) FROM descriptions
              WHERE checkpoint_id = $checkpoint AND cluster = -1{by_method}{by_layer}{words}
          )"""

WITH_WORDS = DESCRIBED.format(
    within="IN", by_method="{by_method}", by_layer="{by_layer}", words=" AND contains(lower(text), lower($words))"
)

CHOICES = {
    "alive": "f.is_dead = false",
    "dead": "f.is_dead",
    "judged": "j.score IS NOT NULL",
    "unjudged": "j.score IS NULL",
    "described": DESCRIBED.format(within="IN", words="", by_method="{by_method}", by_layer="{by_layer}"),
    "undescribed": DESCRIBED.format(within="NOT IN", words="", by_method="{by_method}", by_layer="{by_layer}"),
}


def feature_table(reader: Reader, checkpoint: Checkpoint, filters: Annotated[Filters, Query()]) -> Page:
    """A page of the checkpoint's features that match some filters."""
    row = reader.checkpoint(checkpoint)
    unknown = set(filters.columns) - set(COLUMNS)
    if unknown:
        raise BadRequestError(f"columns has {sorted(unknown)[0]!r}; expected some of {', '.join(COLUMNS)}")
    fitting, shown, values = _query(reader, row, filters)
    values |= {"n_rows": PAGE_ROWS, "offset": (filters.page - 1) * PAGE_ROWS}
    found = reader.panel("Features", fitting + shown, values)
    n = found.rows[0]["n_fitting"] if found.rows else 0
    if not n and filters.page > 1:  # the page number is beyond the last page
        n = reader.panel("", fitting + COUNT, values).rows[0]["n"]
    panels = {
        "features": found,
        "methods": reader.kept_panel("Methods", METHODS, values),
        "metrics": reader.kept_panel("Metrics", SCORED, values),
    }
    facts = {
        "n": n,
        "n_pages": min(LAST_PAGE, -(-n // PAGE_ROWS)),
        "filters": filters.model_dump(),
        "columns": {name: heading for name, heading in COLUMNS.items() if name in filters.columns},
        "all_columns": COLUMNS,
        "some_columns": None if len(filters.columns) == len(COLUMNS) else filters.columns,
        "metrics": [m for m in METRICS if m in {found["metric"] for found in panels["metrics"].rows}] or ["clarity"],
        "corpora": corpora_of(reader, row["checkpoint_id"], filters.corpus)[1],
    }
    return Page("Features", row, facts, panels)


def _query(reader: Reader, row: Row, filters: Filters) -> tuple[str, str, dict[str, object]]:
    """The query of the matching features as an SQL prefix, that of their columns, and the values of both."""
    corpus_id, _ = corpora_of(reader, row["checkpoint_id"], filters.corpus)
    given = filters.model_dump(exclude={"corpus", "columns", "page", "sort", "order"})
    conditions = [sql for name, sql in CONDITIONS.items() if given[name] is not None]
    conditions += [CHOICES[given[name]] for name in ("activity", "described", "judged") if given[name] is not None]
    if filters.words:
        conditions.append(WITH_WORDS)
    elif filters.method and not filters.described:
        conditions.append(CHOICES["described"])
    base = ALL_FEATURES if corpus_id is None else READ_FEATURES
    column = "layer" if filters.sort == "feature" else filters.sort
    order = f"{column} {'DESC' if filters.order == 'down' else 'ASC'} NULLS LAST"
    preferred = [filters.method, *PREFERRED] if filters.method else list(PREFERRED)
    values = given | {
        "checkpoint": row["checkpoint_id"], "corpus": corpus_id, "preferred": preferred,
        "layers": ingested_layers(row), "n_features": row["d_transcoder"],
    }  # fmt: skip
    fitting = FITTING.replace("{base}", base).replace("{conditions}", "\n          AND ".join(conditions) or "true")
    fitting = fitting.replace("{by_method}", " AND method = $method" if filters.method else "")
    fitting = fitting.replace("{by_layer}", " AND layer = $layer" if filters.layer is not None else "")
    return fitting, SHOWN.format(order=order, labels=LABELS), values


def add_downloads(app: FastAPI, catalog: Catalog) -> None:
    """Offer the whole table as CSV and Parquet."""

    def download(
        checkpoint: Checkpoint,
        format: Annotated[Literal["csv", "parquet"], InPath()],
        filters: Annotated[Filters, Query()],
    ) -> StreamingResponse:
        """All features that match some filters, as a file."""
        parts = _file(catalog, checkpoint, format, filters)
        first = next(parts)  # an unknown checkpoint is refused before the answer begins
        name = f'attachment; filename="features.{format}"'
        kind = "text/csv; charset=utf-8" if format == "csv" else "application/vnd.apache.parquet"

        def whole() -> Iterator[bytes]:
            yield first
            yield from parts

        return StreamingResponse(whole(), media_type=kind, headers={"Content-Disposition": name})

    app.add_api_route(PAGES["download"], download, include_in_schema=False)
    app.add_api_route("/api" + PAGES["download"], download, name="features as a file")


def _file(catalog: Catalog, checkpoint: str, format: str, filters: Filters) -> Iterator[bytes]:
    with _batches(catalog, checkpoint, filters) as batches:
        yield from _csv(batches) if format == "csv" else _parquet(batches)


@contextmanager
def _batches(catalog: Catalog, checkpoint: str, filters: Filters) -> Iterator[pa.RecordBatchReader]:
    with catalog.downloading(DOWNLOAD_S) as reader:
        fitting, shown, values = _query(reader, reader.checkpoint(checkpoint), filters)
        shown = shown.replace(", count(*) OVER () AS n_fitting", "")
        yield reader.batches(fitting + shown, values | {"n_rows": DOWNLOAD_ROWS, "offset": 0})


def _csv(batches: pa.RecordBatchReader) -> Iterator[bytes]:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(batches.schema.names)
    for batch in batches:
        rows.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()
    yield text.getvalue().encode()


def _parquet(batches: pa.RecordBatchReader) -> Iterator[bytes]:
    with SpooledTemporaryFile(SPOOLED_BYTES) as file:
        with pq.ParquetWriter(file, batches.schema, compression="zstd") as writer:
            for batch in batches:
                writer.write_batch(batch)
        file.seek(0)
        while piece := file.read(1 << 20):
            yield piece
