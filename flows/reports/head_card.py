"""One attention head as a report for the terminal."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
from rich.console import RenderableType
from rich.text import Text

from flows.inputs.named import chosen_checkpoint
from flows.reports.tables import Table
from interp.descriptions.preference import PREFERRED
from interp.display import visible
from storage.catalog.heads import head_features, head_offsets, head_reasons
from storage.catalog.published import open_published

N_FEATURES = 20
N_OFFSETS = 10
N_REASONS = 12

Key = dict[str, str | int]
"""Values of `$checkpoint`, `$corpus`, `$layer` and `$head`."""
_READ = "checkpoint_id = $checkpoint AND corpus_id = $corpus"
_HEAD = f"{_READ} AND source_layer = $layer AND source_index = $head"
_LABELS = """(
    SELECT layer, feature, arg_min(text, lpad(coalesce(list_position($preferred, method), 99)::VARCHAR, 2, '0')) AS text
    FROM descriptions WHERE checkpoint_id = $checkpoint AND cluster = -1 GROUP BY layer, feature
)"""
_SUMS = {"error": "transcoder errors", "bias": "biases"}


def head_card(catalog: Path, layer: int, head: int, checkpoint: str | None) -> Iterator[RenderableType]:
    """Which features a head contributes most to, from where, and why it attends there.

    Raises:
        ValueError: the head contributes to no attributed activation, or there are several checkpoints and none is
            named.
    """
    with open_published(catalog) as connection:
        checkpoint_id, name, *_ = chosen_checkpoint(connection, checkpoint)
        key: Key = {
            "checkpoint": checkpoint_id,
            "layer": layer,
            "head": head,
            "corpus": _corpus(connection, checkpoint_id),
        }
        features = _features(connection, key)
        if not features.rows:
            raise ValueError(_none(connection, key, name))
        yield Text(f"{name} ({checkpoint_id})  layer {layer}  head {head}", style="bold")
        yield features
        yield _offsets(connection, key)
        reasons = _reasons(connection, key)
        if reasons.rows:
            yield reasons


def _corpus(connection: duckdb.DuckDBPyConnection, checkpoint_id: str) -> str:
    """The corpus whose activations were attributed last; empty if none was."""
    query = """
        SELECT c.corpus_id FROM (SELECT DISTINCT corpus_id FROM contributions WHERE checkpoint_id = ?) c
        LEFT JOIN runs r USING (corpus_id) GROUP BY c.corpus_id ORDER BY max(r.started_at) DESC NULLS LAST, 1 LIMIT 1"""
    row = connection.execute(query, [checkpoint_id]).fetchone()
    return "" if row is None else row[0]


def _none(connection: duckdb.DuckDBPyConnection, key: Key, name: str) -> str:
    query = """SELECT max(source_layer), max(source_index) FROM contributions
               WHERE kind = 'head' AND checkpoint_id = $checkpoint"""
    layer, head = connection.execute(query, {"checkpoint": key["checkpoint"]}).fetchall()[0]
    if layer is None:
        return f"{name}: no activation was attributed; run the stage circuitlens first"
    return (
        f"head {key['layer']}.{key['head']} contributes to no attributed activation of {name}; heads that do are in "
        f"layers 0-{layer}, numbered 0-{head}"
    )


def _features(connection: duckdb.DuckDBPyConnection, key: Key) -> Table:
    query = f"""
        SELECT f.layer, f.feature, n_samples, rate, base_rate, lift, mean_score, usual_offset, d.text
        FROM ({head_features(_HEAD)}) f LEFT JOIN {_LABELS} d USING (layer, feature)
        ORDER BY rate * mean_share DESC, f.layer, f.feature LIMIT {N_FEATURES}"""
    rows = connection.execute(query, key | {"preferred": list(PREFERRED)}).fetchall()
    title = f"Features it contributes most to; it is significant for {rows[0][4]:.0%} of all samples" if rows else ""
    table = Table("feature", "samples", "lift", "mean contribution", "mostly from", "which is", title=title)
    for layer, feature, n, rate, _, lift, score, offset, text in rows:
        table.add_row(
            f"L{layer} #{feature}", f"{n} ({rate:.0%})", f"{lift:.1f}", f"{score:.3g}", _place(offset),
            visible(text or ""),
        )  # fmt: skip
    return table


def _offsets(connection: duckdb.DuckDBPyConnection, key: Key) -> Table:
    query = f"""SELECT "offset", sum(n), sum(share), sum(score) FROM ({head_offsets(_HEAD)}) GROUP BY ALL
                ORDER BY 2 DESC, 1 DESC LIMIT {N_OFFSETS}"""
    table = Table("from", "contributions", "share", "together", title="Where it reads")
    for offset, n, share, score in connection.execute(query, key).fetchall():
        table.add_row(_place(offset), str(n), f"{share:.0%}", f"{score:.3g}")
    return table


def _reasons(connection: duckdb.DuckDBPyConnection, key: Key) -> Table:
    of = f"{_READ} AND head_layer = $layer AND head = $head"
    query = f"""
        SELECT query_kind, query_layer, query_index, query_token, query_offset, q.text,
               key_kind, key_layer, key_index, key_token, key_offset, k.text, n, mean_score
        FROM ({head_reasons(of)}) p
        LEFT JOIN {_LABELS} q ON query_kind = 'feature' AND (q.layer, q.feature) = (query_layer, query_index)
        LEFT JOIN {_LABELS} k ON key_kind = 'feature' AND (k.layer, k.feature) = (key_layer, key_index)
        ORDER BY n * abs(mean_score) DESC, query_kind, query_index, key_kind, key_index LIMIT {N_REASONS}"""
    table = Table("source of the query", "source of the key", "times", "mean score", title="Why it attends there")
    for row in connection.execute(query, key | {"preferred": list(PREFERRED)}).fetchall():
        table.add_row(_side(*row[:6]), _side(*row[6:12]), str(row[12]), f"{row[13]:.3g}")
    return table


def _side(
    kind: str, layer: int | None, index: int | None, token: str | None, offset: int | None, text: str | None
) -> str:
    """A source of a query or a key, and its distance from the query's or key's token."""
    at = f" at {offset}" if offset else ""
    if kind == "feature":
        return f"L{layer} #{index}{at} {visible(text or '')}".rstrip()
    return f"{visible(token or str(index))!r}{at}" if kind == "token" else _SUMS[kind]


def _place(offset: int) -> str:
    return "the token" if offset == 0 else str(offset)
