"""Queries that several pages use."""

from explorer.catalog import Reader, Row
from explorer.errors import NotFoundError

CORPORA = """
    SELECT f.corpus_id, coalesce(c.name, 'several corpora') AS name, c.n_tokens, c.has_text,
           (SELECT max(started_at) FROM runs r WHERE r.corpus_id = f.corpus_id) AS read_at
    FROM (SELECT DISTINCT corpus_id FROM features WHERE checkpoint_id = $checkpoint) f
    LEFT JOIN corpora c USING (corpus_id) ORDER BY read_at DESC NULLS LAST, f.corpus_id
"""

LABELS = """(
        SELECT layer, feature, arg_min(
            text, lpad(coalesce(list_position($preferred, method), 99)::VARCHAR, 2, '0') || explainer
        ) AS text
        FROM descriptions WHERE checkpoint_id = $checkpoint AND cluster = -1
          AND (layer, feature) IN (SELECT layer, feature FROM found)
        GROUP BY layer, feature
    )"""
"""The preferred description of every feature in `found`, a table defined earlier in the query."""


def corpora_of(reader: Reader, checkpoint_id: str, wanted: str | None) -> tuple[str | None, list[Row]]:
    """The corpus of a page, and all corpora on which the checkpoint's features were run; None if there is none yet.

    Raises:
        NotFoundError: the given corpus is not one of them.
    """
    rows = reader.kept_panel("", CORPORA, {"checkpoint": checkpoint_id}).rows
    if wanted is None:
        return (rows[0]["corpus_id"] if rows else None), rows
    if wanted not in [row["corpus_id"] for row in rows]:
        known = ", ".join(row["corpus_id"] for row in rows) or "none"
        raise NotFoundError(f"corpus {wanted!r} was not read by this checkpoint; it has read {known}")
    return wanted, rows


def ingested_layers(checkpoint: Row) -> list[int]:
    """The ingested layers; all layers in catalogs of versions that did not record them."""
    return list(range(checkpoint["n_layers"])) if checkpoint.get("layers") is None else list(checkpoint["layers"])


def check_feature(checkpoint: Row, layer: int, feature: int) -> None:
    """Refuse a feature that the checkpoint does not have.

    Raises:
        NotFoundError: says which it has.
    """
    if layer >= checkpoint["n_layers"] or feature >= checkpoint["d_transcoder"]:
        raise NotFoundError(
            f"there is no feature {feature} in layer {layer}: {checkpoint['name']} has layers 0 to "
            f"{checkpoint['n_layers'] - 1}, each with features 0 to {checkpoint['d_transcoder'] - 1}"
        )
    if layer not in ingested_layers(checkpoint):
        there = ", ".join(map(str, ingested_layers(checkpoint)))
        raise NotFoundError(f"layer {layer} is not ingested: of {checkpoint['name']} there are layers {there}")
