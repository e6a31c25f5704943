"""Search for features by words: in their descriptions, and in the texts on which they fire."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import duckdb

from storage.search.index import Document, SearchIndex
from storage.search.words import Term, terms, words

ROWS_LOOKED_AT = 300
"""Number of best matching rows of the corpus whose samples are considered."""

MAX_PLACES = 500
"""Largest number of matches in these rows that are considered; further matches of a frequent word change nothing."""

REACH = 8
"""A sample matches a word if the feature fires on it, or at most this many tokens after it."""

BEFORE, AFTER = 24, 12
"""Tokens of a context that are shown."""

MAX_FOUND = 200


class Query(NamedTuple):
    """A search."""

    text: str
    """Words; "phrases" in double quotes; beginnings of words with a star."""
    checkpoint_id: str | None = None
    """The checkpoint to search; None: all."""
    layer: int | None = None
    n: int = 20
    """Number of features wanted, at most `MAX_FOUND`."""


class DescriptionHit(NamedTuple):
    """A feature with a matching description."""

    checkpoint_id: str
    layer: int
    feature: int
    score: float
    method: str
    explainer: str
    cluster: int
    text: str


class ContextHit(NamedTuple):
    """A feature that fires on matching text, with its best sample."""

    checkpoint_id: str
    corpus_id: str
    layer: int
    feature: int
    sample: int
    score: float
    """The activation as a share of the feature's greatest, reduced for each token between the words and the firing
    token, plus 1 for each further term of the query that occurs there."""
    activation: float
    before: str
    token: str
    after: str


def search_descriptions(
    connection: duckdb.DuckDBPyConnection, index: SearchIndex, query: Query
) -> list[DescriptionHit]:
    """The features whose descriptions match best, by BM25: those with all terms, then those with some.

    For a query without a word (`>>>`), those that contain the exact text.
    """
    wanted = terms(query.text)
    if not wanted:
        return _with_text(connection, query)
    found = _best(index, "descriptions", wanted, query)
    texts = _descriptions(connection, [document for document, _ in found])
    hits = []
    for document, score in found:
        if known := texts[document.subject, document.layer, document.number]:
            method, explainer, cluster, text = max(known, key=lambda one: _fit(one[3], wanted))
            key = document.subject, document.layer, document.number
            hits.append(DescriptionHit(*key, score, method, explainer, cluster, text))
    return hits


def _best(
    index: SearchIndex, kind: str, wanted: list[Term], query: Query, n: int | None = None
) -> list[tuple[Document, float]]:
    """(document, score), those with all terms first."""
    n = min(query.n, MAX_FOUND) if n is None else n
    subjects = None if query.checkpoint_id is None or kind == "sequences" else [query.checkpoint_id]
    layer = query.layer if kind == "descriptions" else None
    found: dict[Document, float] = {}
    for operator in (" AND ", " OR "):
        if len(found) < n:
            for document, score in index.best(kind, operator.join(term.fts for term in wanted), n, subjects, layer):
                found.setdefault(document, score)
    return list(found.items())[:n]


def _descriptions(
    connection: duckdb.DuckDBPyConnection, documents: Sequence[Document]
) -> dict[tuple[str, int, int], list[tuple[str, str, int, str]]]:
    """(method, explainer, cluster, text) of all descriptions of some features."""
    found = defaultdict(list)
    if documents:
        query = """
            SELECT checkpoint_id, layer, feature, method, explainer, cluster, text FROM descriptions
            WHERE feature IN (SELECT unnest(?)) AND text IS NOT NULL
              AND (checkpoint_id, layer, feature) IN (SELECT (unnest(?), unnest(?)::SMALLINT, unnest(?)::INTEGER))
            ORDER BY ALL"""
        checkpoints, layers, features = map(list, zip(*documents, strict=True))
        rows = connection.execute(query, [features, checkpoints, layers, features]).fetchall()
        for *key, method, explainer, cluster, text in rows:
            found[tuple(key)].append((method, explainer, cluster, text))
    return found


def _fit(text: str, wanted: list[Term]) -> tuple[int, int]:
    """How many of the terms a description has; among equals, the shorter matches better."""
    own = list(words(text))
    return sum(any(True for _ in term.places(own)) for term in wanted), -len(text)


def _with_text(connection: duckdb.DuckDBPyConnection, query: Query) -> list[DescriptionHit]:
    text = query.text.strip().encode(errors="replace").decode()
    if not text:
        return []
    rows = connection.execute(
        """SELECT checkpoint_id, layer, feature, 0.0, method, explainer, cluster, text FROM descriptions
           WHERE contains(text, ?) AND coalesce(checkpoint_id = ?, true) AND coalesce(layer = ?, true)
           QUALIFY row_number() OVER (PARTITION BY checkpoint_id, layer, feature ORDER BY length(text), method) = 1
           ORDER BY length(text), checkpoint_id, layer, feature LIMIT ?""",
        [text, query.checkpoint_id, query.layer, min(query.n, MAX_FOUND)],
    ).fetchall()
    return [DescriptionHit(*row) for row in rows]


class _Row(NamedTuple):
    """A row of the corpus that matched."""

    corpus_id: str
    sequence: int
    tokens: list[str]
    documents: list[int]


def search_contexts(connection: duckdb.DuckDBPyConnection, index: SearchIndex, query: Query) -> list[ContextHit]:
    """The features that fire most on matching text: on the words of the query or a few tokens after them.

    The samples in the `ROWS_LOOKED_AT` best matching rows of the corpora are considered.
    """
    wanted = terms(query.text)
    if not wanted:
        return []
    rows = _rows(connection, [document for document, _ in _best(index, "sequences", wanted, query, ROWS_LOOKED_AT)])
    every = ((row, term, *span) for row in rows for term, one in enumerate(wanted) for span in _spans(row.tokens, one))
    places = list(islice(every, MAX_PLACES))
    if not places:
        return []
    by_place = {(row.corpus_id, row.sequence): row for row in rows}
    hits = []
    for one in _samples(connection, places, query):
        row = by_place[one.key[1], one.sequence]
        texts = excerpt(row.tokens, row.documents, one.position)
        hits.append(ContextHit(*one.key, one.sample, one.score, one.activation, *texts))
    return hits


def _rows(connection: duckdb.DuckDBPyConnection, documents: Sequence[Document]) -> list[_Row]:
    found = []
    for corpus_id in sorted({document.subject for document in documents}):
        sequences = [document.number for document in documents if document.subject == corpus_id]
        query = """SELECT corpus_id, sequence, tokens, documents FROM sequences
                   WHERE corpus_id = ? AND sequence IN (SELECT unnest(?))
                   ORDER BY list_position(?, sequence)"""
        found += [_Row(*row) for row in connection.execute(query, [corpus_id, sequences, sequences]).fetchall()]
    return found


def _spans(tokens: list[str], term: Term) -> Iterator[tuple[int, int]]:
    """The matches of a term as tokens: (first, last)."""
    token_at = [at for at, token in enumerate(tokens) for _ in token]
    for start, stop in term.places(list(words("".join(tokens)))):
        yield token_at[start], token_at[stop - 1]


class _Sample(NamedTuple):
    """A sample of a feature that fires on a match."""

    key: tuple[str, str, int, int]
    sample: int
    sequence: int
    position: int
    activation: float
    score: float


def _samples(
    connection: duckdb.DuckDBPyConnection, places: list[tuple[_Row, int, int, int]], query: Query
) -> Iterator[_Sample]:
    """One sample of each feature that fires at some places, the best first. A place is a row of the corpus, the number
    of a term, and the first and the last token of the match."""
    found = connection.execute(
        f"""
        WITH places AS (
            SELECT unnest($corpora) AS corpus_id, unnest($sequences)::BIGINT AS sequence,
                   unnest($terms)::INTEGER AS term, unnest($firsts)::INTEGER AS first, unnest($lasts)::INTEGER AS last
        ), near AS (
            SELECT s.checkpoint_id, s.corpus_id, s.layer, s.feature, s.sample, s.sequence, s.position, s.activation,
                   count(DISTINCT term) AS n_terms, min(greatest(0, s.position - p.last)) AS distance
            FROM samples s JOIN places p
              ON s.corpus_id = p.corpus_id AND s.sequence = p.sequence
             AND s.position BETWEEN p.first AND p.last + {REACH}
            WHERE coalesce(s.checkpoint_id = $checkpoint, true) AND coalesce(s.layer = $layer, true) GROUP BY ALL
        )
        SELECT n.*, n_terms - 1 + n.activation / greatest(f.max_activation, n.activation) / (1 + distance / 4) AS score
        FROM near n JOIN features f USING (checkpoint_id, corpus_id, layer, feature)
        QUALIFY row_number() OVER (PARTITION BY n.checkpoint_id, n.corpus_id, n.layer, n.feature
                                   ORDER BY score DESC, sample) = 1
        ORDER BY score DESC, checkpoint_id, layer, feature LIMIT $n""",
        {
            "corpora": [row.corpus_id for row, *_ in places],
            "sequences": [row.sequence for row, *_ in places],
            "terms": [term for _, term, *_ in places],
            "firsts": [first for *_, first, _ in places],
            "lasts": [last for *_, last in places],
            "checkpoint": query.checkpoint_id,
            "layer": query.layer,
            "n": min(query.n, MAX_FOUND),
        },
    ).fetchall()
    for checkpoint, corpus, layer, feature, sample, sequence, position, activation, _, _, score in found:
        yield _Sample((checkpoint, corpus, layer, feature), sample, sequence, position, activation, score)


def excerpt(tokens: list[str], documents: list[int], position: int) -> tuple[str, str, str]:
    """A firing token and some of its document on either side: (before, token, after)."""
    start = position
    while start > 0 and not tokens[start]:  # within a character, whose text is on its first token
        start -= 1
    own = [at for at, document in enumerate(documents) if document == documents[position]]
    first, last = max(own[0], position - BEFORE), min(own[-1], position + AFTER)
    pieces = tokens[first:start], tokens[start : position + 1], tokens[position + 1 : last + 1]
    return "".join(pieces[0]), "".join(pieces[1]), "".join(pieces[2])
