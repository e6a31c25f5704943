"""One feature as a report for the terminal."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb
from rich.console import RenderableType
from rich.text import Text

from flows.inputs.named import chosen_checkpoint
from flows.reports.in_context import contexts
from flows.reports.tables import Table
from interp.display import visible
from storage.bucket.working_copy import refresh
from storage.catalog.published import open_published
from storage.store import Store

N_TOKENS = 12
N_EDGES = 8
N_PATTERNS = 3


class FeatureOf(NamedTuple):
    """A feature of a checkpoint, as parameters of queries."""

    checkpoint_id: str
    layer: int
    feature: int


def feature_card(catalog: Path, layer: int, feature: int, checkpoint: str | None) -> Iterator[RenderableType]:
    """Descriptions, tokens and edges of one feature.

    Raises:
        ValueError: there is no such feature, or there are several checkpoints and none is named.
    """
    with open_published(catalog) as connection:
        checkpoint_id, name = _checkpoint(connection, layer, feature, checkpoint)
        key = FeatureOf(checkpoint_id, layer, feature)
        yield Text(f"{name} ({checkpoint_id})  layer {layer}  feature {feature}", style="bold")
        yield from _descriptions(connection, key)
        yield _tokens(connection, key)
        yield _edges(connection, key)
        yield from _activity(connection, key)
        yield from contexts(connection, key)
        yield from _twera(connection, key)
        yield from _clusters(connection, Store(catalog.parent), key)


def _checkpoint(connection: duckdb.DuckDBPyConnection, layer: int, feature: int, wanted: str | None) -> tuple[str, str]:
    chosen = chosen_checkpoint(connection, wanted)
    if (problem := chosen.no_feature(layer, feature)) is not None:
        raise ValueError(problem)
    return chosen.checkpoint_id, chosen.name


def _descriptions(connection: duckdb.DuckDBPyConnection, key: FeatureOf) -> Iterator[RenderableType]:
    query = (
        "SELECT method, text FROM descriptions WHERE checkpoint_id = ? AND layer = ? AND feature = ? ORDER BY method"
    )
    rows = connection.execute(query, key).fetchall()
    for method, text in rows:
        yield Text.assemble((f"{method}: ", "bold cyan"), visible(text))
    if "weightlens" not in [method for method, _ in rows]:
        query = """SELECT f.detail FROM failures f JOIN runs r USING (run_id, stage)
                   WHERE r.checkpoint_id = ? AND f.layer = ? AND f.feature = ?"""
        for (detail,) in connection.execute(query, key).fetchall():
            yield Text.assemble(("no weightlens description: ", "bold yellow"), detail)


def _tokens(connection: duckdb.DuckDBPyConnection, key: FeatureOf) -> Table:
    table = Table("side", "token", "z", "activation", "from", title="Tokens")
    query = """
        SELECT c.side, c.sign, t.text, c.z_score, c.activation, c.validated, c.source_layer, c.source_feature
        FROM token_candidates c JOIN tokens t USING (checkpoint_id, token_id)
        WHERE c.checkpoint_id = ? AND layer = ? AND feature = ?
        QUALIFY row_number() OVER (PARTITION BY side, sign, validated, source_layer IS NULL ORDER BY rank) <= ?
        ORDER BY side, sign DESC, validated DESC, source_layer IS NOT NULL, rank"""
    for side, sign, text, z, activation, validated, layer, feature in connection.execute(
        query, [*key, N_TOKENS]
    ).fetchall():
        what = {
            ("input", 1): "fires on",
            ("input", -1): "silenced by",
            ("output", 1): "promotes",
            ("output", -1): "suppresses",
        }
        origin = "" if layer is None else f"L{layer} #{feature}"
        mark = "" if validated is not False else " (alone: silent)"
        table.add_row(
            what[side, sign] + mark, visible(text), "" if z is None else f"{z:.1f}",
            "" if activation is None else f"{activation:.3g}", origin,
        )  # fmt: skip
    return table


def _edges(connection: duckdb.DuckDBPyConnection, key: FeatureOf) -> Table:
    table = Table("from", "virtual weight", "z", "which is", title="Strongest upstream features")
    query = """
        SELECT e.source_layer, e.source_feature, e.virtual_weight, e.z_score, d.text FROM feature_edges e
        LEFT JOIN descriptions d ON d.checkpoint_id = e.checkpoint_id AND d.layer = e.source_layer
             AND d.feature = e.source_feature AND d.method = 'weightlens'
        WHERE e.checkpoint_id = ? AND target_layer = ? AND target_feature = ? AND e.corpus_id IS NULL
        ORDER BY e.virtual_weight DESC LIMIT ?"""
    for layer, feature, weight, z, text in connection.execute(query, [*key, N_EDGES]).fetchall():
        table.add_row(f"L{layer} #{feature}", f"{weight:.3g}", f"{z:.1f}", visible(text or ""))
    return table


_PRIVATE = "SELECT corpus_id FROM corpora WHERE has_text = false"


def _clusters(connection: duckdb.DuckDBPyConnection, store: Store, key: FeatureOf) -> Iterator[RenderableType]:
    """The mechanisms that make the feature fire, with the input patterns of each one's strongest samples."""
    query = """
        SELECT corpus_id, cluster, n_samples, share, signature, stability FROM clusters
        WHERE checkpoint_id = ? AND layer = ? AND feature = ? ORDER BY corpus_id, cluster < 0, cluster"""
    rows = connection.execute(query, key).fetchall()
    if not rows:
        return
    from storage.sample_patterns import corpora_of, sample_patterns  # takes half a second

    private = {corpus_id for (corpus_id,) in connection.execute(_PRIVATE).fetchall()}
    shown = {row[0] for row in rows if row[0] not in private}
    read = {corpus for corpus_id in shown for corpus in corpora_of(connection, corpus_id)}
    refresh(store, *sorted(f"corpora/{corpus}" for corpus in read))
    table = Table("cluster", "samples", "holds", "input patterns", "caused by", title="Mechanisms")
    for corpus_id, cluster, n, share, signature, stability in rows:
        feature = (key.checkpoint_id, corpus_id, key.layer, key.feature)
        samples = [] if corpus_id in private else sample_patterns(connection, store, feature, cluster, N_PATTERNS)
        patterns = "\n".join(visible(sample.text) for sample in samples)
        name = str(cluster) if cluster >= 0 else "none"
        holds = "" if stability is None else f"{stability:.0%}"
        table.add_row(name, f"{n} ({share:.0%})", holds, patterns, ", ".join(signature[:N_EDGES]))
    yield table
    yield _effects(connection, key)


def _effects(connection: duckdb.DuckDBPyConnection, key: FeatureOf) -> Table:
    """The next tokens that the feature's activations promote and suppress, by the mean effect."""
    table = Table("after", "promotes", "suppresses", title="Effects on the next token")
    query = """
        SELECT e.position, list(t.text ORDER BY effect DESC) FILTER (effect > 0),
               list(t.text ORDER BY effect) FILTER (effect < 0)
        FROM logit_effects e JOIN tokens t USING (checkpoint_id, token_id)
        WHERE e.checkpoint_id = ? AND layer = ? AND feature = ? AND sample = -1 GROUP BY ALL ORDER BY 1"""
    for position, promoted, suppressed in connection.execute(query, key).fetchall():
        words = [
            " ".join(visible(text).strip() for text in (texts or [])[:N_EDGES]) for texts in (promoted, suppressed)
        ]
        table.add_row(str(position), *words)
    return table


def _activity(connection: duckdb.DuckDBPyConnection, key: FeatureOf) -> Iterator[RenderableType]:
    query = """
        SELECT coalesce(c.name, f.corpus_id), n_active, density, mean_activation, max_activation
        FROM features f LEFT JOIN corpora c USING (corpus_id)
        WHERE checkpoint_id = ? AND layer = ? AND feature = ? ORDER BY ALL"""
    for corpus, n_active, density, mean, greatest in connection.execute(query, key).fetchall():
        figures = f"active at {n_active} tokens ({density:.2%})"
        if n_active:
            figures += f", mean {mean:.3g}, greatest {greatest:.3g}"
        yield Text.assemble((f"on {visible(corpus)}: ", "bold cyan"), figures)


def _twera(connection: duckdb.DuckDBPyConnection, key: FeatureOf) -> Iterator[RenderableType]:
    query = """
        SELECT e.source_layer, e.source_feature, e.twera, e.twera_low, e.twera_high, e.virtual_weight, e.n_coactive,
               d.text
        FROM feature_edges e
        LEFT JOIN descriptions d ON d.checkpoint_id = e.checkpoint_id AND d.layer = e.source_layer
             AND d.feature = e.source_feature AND d.method = 'weightlens'
        WHERE e.checkpoint_id = ? AND target_layer = ? AND target_feature = ? AND e.corpus_id IS NOT NULL
        ORDER BY abs(e.twera) DESC, e.source_layer, e.source_feature LIMIT ?"""
    rows = connection.execute(query, [*key, N_EDGES]).fetchall()
    if not rows:
        return
    table = Table("from", "TWERA", "95%", "virtual weight", "together at", "which is", title="Strongest on the corpus")
    for layer, feature, value, low, high, weight, n, text in rows:
        interval = "" if low is None else f"{low:.3g} … {high:.3g}"
        described = visible(text or "")
        table.add_row(f"L{layer} #{feature}", f"{value:.3g}", interval, f"{weight:.3g}", str(n), described)
    yield table
