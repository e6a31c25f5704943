"""The index of words: a SQLite file beside the published catalog, made again when the catalog is newer.

It indexes features by their descriptions (one document for each feature) and rows of the corpus by their words; the
catalog then gives the features that fire in these rows. So the index grows with features and with text, not with
samples.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import duckdb

from storage.bucket.mirror import cache_folder
from storage.catalog.published import CANNOT_BE_WRITTEN, newest, open_published
from storage.hashing import short_hash
from storage.search.words import lemma, words
from storage.store import whole_file

VERSION = 1
"""Raise it when the same catalog would be indexed differently."""

NAME = "catalog.search.sqlite"

FEATURE_BITS, LAYER_BITS = 32, 12
"""Bits of a document's number: the feature or the row of the corpus, then the layer, then the checkpoint or corpus."""

DOCUMENTS_AT_ONCE = 10_000

_SPLIT = "content = '', tokenize = 'unicode61 remove_diacritics 2'"

_TABLES = f"""
    PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT);
    CREATE TABLE subjects (number INTEGER PRIMARY KEY, id TEXT UNIQUE);
    CREATE VIRTUAL TABLE descriptions USING fts5(words, lemmas, {_SPLIT});
    CREATE VIRTUAL TABLE sequences USING fts5(words, lemmas, {_SPLIT});
"""

_DESCRIPTIONS = """
    SELECT checkpoint_id, layer, feature, string_agg(DISTINCT text, '\n') FROM descriptions
    WHERE text IS NOT NULL GROUP BY ALL ORDER BY ALL"""

_SEQUENCES = "SELECT corpus_id, 0, sequence, array_to_string(tokens, '') FROM sequences"


class Document(NamedTuple):
    """The object that a document's number in the index refers to."""

    subject: str
    """The checkpoint of a feature, or the corpus of a row."""
    layer: int
    number: int
    """The feature, or the row of the corpus."""


class SearchIndex:
    """An index file, open for reading."""

    def __init__(self, path: Path) -> None:
        self._connection = _opened(path)
        self._subjects = dict(self._connection.execute("SELECT id, number FROM subjects"))
        self._ids = {number: subject for subject, number in self._subjects.items()}

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def best(
        self, kind: str, match: str, n: int, subjects: list[str] | None = None, layer: int | None = None
    ) -> list[tuple[Document, float]]:
        """The documents of a kind, `descriptions` or `sequences`, that match best, with their BM25 scores (higher is
        better).

        A match of the word itself counts twice as much as one of its dictionary form.
        """
        assert kind in ("descriptions", "sequences")
        found: list[tuple[Document, float]] = []
        for low, high in self._ranges(subjects, layer):
            query = (
                f"SELECT rowid, -bm25({kind}, 2.0, 1.0) AS score FROM {kind} "
                f"WHERE {kind} MATCH ? AND rowid BETWEEN ? AND ? ORDER BY score DESC, rowid LIMIT ?"
            )
            rows = self._connection.execute(query, [match, low, high, n])
            found += [(self._document(number), score) for number, score in rows]
        return sorted(found, key=lambda one: -one[1])[:n]

    def _ranges(self, subjects: list[str] | None, layer: int | None) -> Iterator[tuple[int, int]]:
        for subject in self._subjects if subjects is None else subjects:
            if subject in self._subjects:
                layers = (0, (1 << LAYER_BITS) - 1) if layer is None else (layer, layer)
                number = self._subjects[subject]
                yield _number(number, layers[0], 0), _number(number, layers[1], (1 << FEATURE_BITS) - 1)

    def _document(self, number: int) -> Document:
        subject, rest = divmod(number, 1 << (FEATURE_BITS + LAYER_BITS))
        return Document(self._ids[subject], *divmod(rest, 1 << FEATURE_BITS))


def _number(subject: int, layer: int, number: int) -> int:
    return (subject << (FEATURE_BITS + LAYER_BITS)) | (layer << FEATURE_BITS) | number


def _opened(path: Path) -> sqlite3.Connection:
    """Open a file as immutable: it is replaced, never changed."""
    uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    return sqlite3.connect(uri, uri=True, check_same_thread=False)


def open_index(catalog: Path) -> SearchIndex:
    """Open the index of the last published catalog; it is made if there is none or the catalog is newer.

    It is beside the catalog, or in the user's cache folder if the catalog's folder cannot be written. Making it takes
    some 20 µs for each feature and a second for a million tokens of text.

    Raises:
        ValueError: there is no catalog.
    """
    path = current_index(catalog) or _build(catalog)
    return SearchIndex(path)


def current_index(catalog: Path) -> Path | None:
    """The index file of the last published catalog, if it is up to date."""
    stamp = _stamp(catalog)
    return next((path for path in _places(catalog) if path.is_file() and _stamp_of(path) == stamp), None)


def _build(catalog: Path) -> Path:
    beside, elsewhere = _places(catalog)
    try:
        return _write(catalog, beside)
    except OSError as error:
        if error.errno not in CANNOT_BE_WRITTEN:
            raise
        return _write(catalog, elsewhere)


def _places(catalog: Path) -> tuple[Path, Path]:
    return catalog.with_name(NAME), cache_folder() / "search" / f"{short_hash(catalog=str(catalog.resolve()))}.sqlite"


def _stamp(catalog: Path) -> str:
    if not catalog.is_file():
        raise ValueError(f"no catalog at {catalog}; has a run finished in this store?")
    status = newest(catalog).stat()
    return f"{VERSION} {status.st_mtime_ns} {status.st_size}"


def _stamp_of(path: Path) -> str | None:
    try:
        with closing(_opened(path)) as connection:
            row = connection.execute("SELECT value FROM meta WHERE name = 'stamp'").fetchone()
    except sqlite3.Error:
        return None
    return row and row[0]


def _write(catalog: Path, path: Path) -> Path:
    stamp = _stamp(catalog)
    with whole_file(path) as partial, closing(sqlite3.connect(partial, isolation_level=None)) as index:
        index.executescript(_TABLES)
        index.execute("BEGIN")
        with open_published(catalog) as connection:
            subjects: dict[str, int] = {}
            for kind, query in (("descriptions", _DESCRIPTIONS), ("sequences", _SEQUENCES)):
                _fill(index, kind, connection.execute(query), subjects)
        index.executemany("INSERT INTO subjects VALUES (?, ?)", [(number, name) for name, number in subjects.items()])
        index.execute("INSERT INTO meta VALUES ('stamp', ?)", [stamp])
        index.execute("COMMIT")
    return path


def _fill(index: sqlite3.Connection, kind: str, rows: duckdb.DuckDBPyConnection, subjects: dict[str, int]) -> None:
    """Fill an index. Memory: `DOCUMENTS_AT_ONCE` texts, and what SQLite buffers of the index before it writes."""
    insert = f"INSERT INTO {kind} (rowid, words, lemmas) VALUES (?, ?, ?)"
    while block := rows.fetchmany(DOCUMENTS_AT_ONCE):
        documents = []
        for subject, layer, number, text in block:
            forms = [word.form for word in words(text)]
            place = _number(subjects.setdefault(subject, len(subjects)), layer, number)
            documents.append((place, " ".join(forms), " ".join(map(lemma, forms))))
        index.executemany(insert, documents)
