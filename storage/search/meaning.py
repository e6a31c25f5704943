"""Search for features by the meaning of their descriptions: a vector for each feature, in a file beside the published
catalog."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np

from interp.descriptions.preference import PREFERRED
from storage.catalog.published import newest, open_published
from storage.search.embedders import Embedder
from storage.search.lexical import MAX_FOUND, DescriptionHit, Query
from storage.store import whole_file

VERSION = 1
"""Raise it when the same catalog and model would give other vectors."""

VECTORS_AT_ONCE = 1 << 14
"""Vectors compared with a query at a time, as float32."""

TEXTS_AT_ONCE = 2048
"""Texts that are turned into vectors between two reports of progress."""

# A language model's description is preferred to one by rule.
_CHOSEN = """
    SELECT checkpoint_id, layer, feature, text FROM descriptions
    WHERE text IS NOT NULL AND text <> ''
    QUALIFY row_number() OVER (
        PARTITION BY checkpoint_id, layer, feature
        ORDER BY cluster <> -1, explainer = 'tokens', coalesce(list_position(?, method), 99), method, explainer, text
    ) = 1
    ORDER BY checkpoint_id, layer, feature"""


class Progress(NamedTuple):
    """Number of texts turned into vectors so far, and of all that are new."""

    done: int
    n: int


def vectors_path(catalog: Path, embedder: Embedder) -> Path:
    """The file of the vectors by an embedding model."""
    return catalog.with_name(f"catalog.meaning-{VERSION}-{embedder.embedder_id}.npy")


def vectors_are_current(catalog: Path, embedder: Embedder) -> bool:
    """Whether the vectors were made from the last published catalog, whose time they carry."""
    path = vectors_path(catalog, embedder)
    return path.is_file() and path.stat().st_mtime_ns == newest(catalog).stat().st_mtime_ns


def make_vectors(catalog: Path, embedder: Embedder) -> Iterator[Progress]:
    """Update the vectors; those of texts that were there before are kept.

    Memory: all vectors, of which a thousand take 1.6 MB for a model of 768 dimensions.
    """
    path, stamp = vectors_path(catalog, embedder), newest(catalog).stat().st_mtime_ns
    with open_published(catalog) as connection:
        rows = connection.execute(_CHOSEN, [list(PREFERRED)]).fetchall()
    known = _known(path)
    hashes = [_text_hash(text) for *_, text in rows]
    new = dict(zip(hashes, (text for *_, text in rows), strict=True))
    new = {text_hash: text for text_hash, text in new.items() if text_hash not in known}
    names = list(new)
    for start in range(0, len(names), TEXTS_AT_ONCE):
        yield Progress(start, len(names))
        some = names[start : start + TEXTS_AT_ONCE]
        known.update(zip(some, embedder.embed([new[name] for name in some]).astype(np.float16), strict=True))
    d = len(next(iter(known.values()))) if known else 1
    table = np.zeros(len(rows), _record(d))
    for at, ((checkpoint_id, layer, feature, _), text_hash) in enumerate(zip(rows, hashes, strict=True)):
        table[at] = (checkpoint_id.encode(), layer, feature, text_hash, known[text_hash])
    with whole_file(path) as partial, partial.open("wb") as file:
        np.save(file, table, allow_pickle=False)
        file.flush()
        os.utime(partial, ns=(stamp, stamp))
    yield Progress(len(names), len(names))


def _record(d: int) -> np.dtype:
    fields = [("checkpoint", "S64"), ("layer", "<i2"), ("feature", "<i4"), ("text", "<u8"), ("vector", "<f2", (d,))]
    return np.dtype(fields)


def _known(path: Path) -> dict[int, np.ndarray]:
    """The vectors of an existing file, by the hash of the description that each was made from; empty if it cannot be
    read."""
    try:
        table = np.load(path, allow_pickle=False)
        return dict(zip(table["text"].tolist(), table["vector"], strict=True))
    except (OSError, ValueError, KeyError, IndexError):
        return {}


def _text_hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def search_meaning(
    connection: duckdb.DuckDBPyConnection, vectors: Path, embedder: Embedder, query: Query
) -> list[DescriptionHit]:
    """The features whose descriptions have the meaning closest to the query's; the score is the cosine.

    Memory: `VECTORS_AT_ONCE` vectors; the file is memory-mapped.
    """
    table = np.load(vectors, mmap_mode="r", allow_pickle=False)
    if not query.text.strip() or not len(table):
        return []
    [wanted] = embedder.embed([query.text])
    scores = np.concatenate(
        [
            np.asarray(table["vector"][start : start + VECTORS_AT_ONCE], np.float32) @ wanted
            for start in range(0, len(table), VECTORS_AT_ONCE)
        ]
    )
    if query.checkpoint_id is not None:
        scores[table["checkpoint"] != query.checkpoint_id.encode()] = -np.inf
    if query.layer is not None:
        scores[table["layer"] != query.layer] = -np.inf
    n = min(query.n, MAX_FOUND, len(scores))
    best = np.argpartition(-scores, n - 1)[:n]
    best = best[np.lexsort((best, -scores[best]))]
    best = best[np.isfinite(scores[best])]
    return list(_hits(connection, [table[at] for at in best], scores[best].tolist()))


def _hits(
    connection: duckdb.DuckDBPyConnection, rows: Sequence[np.void], scores: Sequence[float]
) -> Iterator[DescriptionHit]:
    """The descriptions that the vectors were made from, as the catalog has them."""
    query = """SELECT method, explainer, cluster, text FROM descriptions
               WHERE checkpoint_id = ? AND layer = ? AND feature = ? ORDER BY ALL"""
    for row, score in zip(rows, scores, strict=True):
        key = row["checkpoint"].decode(), int(row["layer"]), int(row["feature"])
        for method, explainer, cluster, text in connection.execute(query, key).fetchall():
            if text is not None and _text_hash(text) == int(row["text"]):
                yield DescriptionHit(*key, score, method, explainer, cluster, text)
                break
