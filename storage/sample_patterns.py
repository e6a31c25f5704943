"""The input patterns of a feature's attributed samples, from the catalog and the corpus."""

from typing import NamedTuple

import duckdb
import numpy as np

from interp.circuitlens.input_patterns import input_pattern, pattern_text
from storage.corpora.rows import numbered, read_numbered_rows
from storage.store import Store

FeatureKey = tuple[str, str, int, int]
"""(checkpoint_id, corpus_id, layer, feature)"""


class SamplePattern(NamedTuple):
    """The tokens that caused one activation."""

    sample: int
    cluster: int
    sequence: int
    position: int
    activation: float
    pattern: list[int]
    """Positions in the row, in order, including the firing token's."""
    texts: list[str]
    """Texts of the tokens."""
    text: str
    """The pattern as one text, with `…` where tokens are left out."""


def sample_patterns(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    key: FeatureKey,
    cluster: int | None = None,
    n: int | None = None,
) -> list[SamplePattern]:
    """Patterns of the attributed samples of a feature, or of one of its clusters, of the `n` strongest samples."""
    samples = connection.execute(
        """SELECT sample, cluster, sequence, position, activation FROM samples
           WHERE checkpoint_id = ? AND corpus_id = ? AND layer = ? AND feature = ? AND cluster IS NOT NULL
           ORDER BY activation DESC, sample""",
        key,
    ).fetchall()
    samples = [row for row in samples if cluster is None or row[1] == cluster][:n]
    if not samples:
        return []
    sequences = np.array([row[2] for row in samples], np.int64)
    rows = read_numbered_rows(store, numbered(store, corpora_of(connection, key[1])), sequences)
    texts = _texts(connection, key[0], rows)
    causes = connection.execute(
        """SELECT sample, kind, source_position, score FROM contributions
           WHERE checkpoint_id = ? AND corpus_id = ? AND layer = ? AND feature = ? AND source_position IS NOT NULL""",
        key,
    ).fetchnumpy()
    found = []
    for sample, label, sequence, position, activation in samples:
        own = causes["sample"] == sample
        source, score = np.asarray(causes["source_position"])[own].astype(np.int64), causes["score"][own]
        pattern = input_pattern(position, list(causes["kind"][own]), source, np.asarray(score))
        tokens = [texts[token] for token in rows[sequence].tolist()]
        chosen = [tokens[at] for at in pattern]
        found.append(
            SamplePattern(sample, label, sequence, position, activation, pattern, chosen, pattern_text(tokens, pattern))
        )
    return found


def corpora_of(connection: duckdb.DuckDBPyConnection, corpus_id: str) -> tuple[str, ...]:
    """The corpora with the rows of a corpus' samples: the corpus itself, or those that it was read from, in order."""
    row = connection.execute("SELECT corpora FROM corpora WHERE corpus_id = ?", [corpus_id]).fetchone()
    return (corpus_id,) if row is None or row[0] is None else tuple(row[0])


def _texts(connection: duckdb.DuckDBPyConnection, checkpoint_id: str, rows: dict[int, np.ndarray]) -> dict[int, str]:
    """The texts of all tokens of some rows, without padding."""
    wanted = np.unique(np.concatenate(list(rows.values()))).tolist()
    query = "SELECT token_id, text FROM tokens WHERE checkpoint_id = ? AND token_id IN (SELECT unnest(?::INTEGER[]))"
    return {token: "" for token in wanted} | dict(connection.execute(query, [checkpoint_id, wanted]).fetchall())
