"""Agreement of descriptions with published ones: the view `method_agreement`, and the similarity of their texts."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np

from flows.inputs.named import chosen_checkpoint
from flows.reports.tables import Table
from interp.display import visible
from storage.catalog.published import open_published
from storage.search.embedders import Embedder

KEY = ("checkpoint_id", "imported_checkpoint_id", "layer", "method", "explainer", "imported_method")
"""The columns that identify a row of `method_agreement`."""

Row = dict[str, str | int | float | None]


def agreement(catalog: Path, checkpoint: str | None, embedder: Embedder | None) -> list[Row]:
    """The rows of `method_agreement` for a checkpoint, or for all. With an embedding model, each has
    `embedding_likeness`, the mean cosine of both descriptions of a feature, and `likeness_by_chance`, the mean for
    descriptions of different features: embedding models find all descriptions rather similar, so that the first is
    only meaningful in comparison with the second.

    Raises:
        ValueError: there is no such checkpoint, nothing was imported for it, or the embedding model does not answer.
    """
    with open_published(catalog) as connection:
        checkpoint_id = None if checkpoint is None else chosen_checkpoint(connection, checkpoint)[0]
        found = connection.execute(
            f"""SELECT * FROM method_agreement WHERE checkpoint_id = coalesce(?, checkpoint_id)
                ORDER BY {", ".join(KEY)}""",
            [checkpoint_id],
        )
        names = [column for column, *_ in found.description or []]
        rows: list[Row] = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
        if not rows:
            raise ValueError(
                f"agreement: nothing was imported that describes features of {checkpoint or 'this store'}; "
                "see `import --format descriptions`"
            )
        likeness = {} if embedder is None else _likeness(connection, checkpoint_id, embedder)
    for row in rows if embedder is not None else []:
        row["embedding_likeness"], row["likeness_by_chance"] = likeness.get(
            tuple(row[column] for column in KEY), (None, None)
        )
    return rows


def _likeness(
    connection: duckdb.DuckDBPyConnection, checkpoint_id: str | None, embedder: Embedder
) -> dict[tuple[str | int | float | None, ...], tuple[float, float | None]]:
    """For each row, the mean cosine of paired texts, and of all other pairs of the two methods; None for a single
    pair."""
    query = f"""SELECT {", ".join(KEY)}, text, imported_text FROM imported_pairs
                WHERE checkpoint_id = coalesce(?, checkpoint_id) AND text <> '' AND imported_text <> '' ORDER BY ALL"""
    pairs = connection.execute(query, [checkpoint_id]).fetchall()
    texts = sorted({text for row in pairs for text in row[-2:]})
    place = {text: at for at, text in enumerate(texts)}
    vectors = embedder.embed(texts)
    groups: dict[tuple[str | int | float | None, ...], list[tuple[int, int]]] = defaultdict(list)
    for row in pairs:
        groups[row[: len(KEY)]].append((place[row[-2]], place[row[-1]]))
    found = {}
    for key, members in groups.items():
        ours, theirs = (vectors[np.array(side)].astype(np.float64) for side in zip(*members, strict=True))
        paired, n = float((ours * theirs).sum()), len(members)
        others = (float(ours.sum(0) @ theirs.sum(0)) - paired) / (n * (n - 1)) if n > 1 else None
        found[key] = (paired / n, others)
    return found


def agreement_table(rows: Sequence[Row]) -> Table:
    """The rows as a table, with correlations and overlaps to two digits."""
    names = [name for name in rows[0] if not name.endswith("checkpoint_id")]
    table = Table(*(name.replace("_", " ") for name in names), title="Agreement with imported descriptions")
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in names))
    return table


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else visible(str(value))
