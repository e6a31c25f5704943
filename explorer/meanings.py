"""Descriptions with similar meaning, by an embedding model of the user's; the vectors are computed in the
background."""

import threading
from pathlib import Path

import duckdb

from storage.search.lexical import DescriptionHit, Query


class Meanings:
    """The model, and the vectors of the published catalog. Until they are computed, or if that fails, it says so."""

    def __init__(self, catalog: Path, place: str, model: str | None) -> None:
        self._catalog = catalog
        self._place = place
        self._model = model
        self._lock = threading.Lock()
        self._making: threading.Thread | None = None
        self._vectors: tuple[int, Path] | None = None
        self._embedder = None
        self.failed: str | None = None

    def search(self, connection: duckdb.DuckDBPyConnection, query: Query, stamp: int) -> list[DescriptionHit] | None:
        """The features whose descriptions have the closest meaning to the query; None while vectors are being computed.

        `stamp` identifies the copy of the catalog: a newer one needs new vectors.
        """
        with self._lock:
            if self._vectors is None or self._vectors[0] != stamp:
                if self._making is None or not self._making.is_alive():
                    self._making = threading.Thread(target=self._make, args=[stamp], daemon=True)
                    self._making.start()
                return None
            _, path = self._vectors
            from storage.search.meaning import search_meaning

            assert self._embedder is not None
            return search_meaning(connection, path, self._embedder, query)

    def _make(self, stamp: int) -> None:
        from storage.search.embedders import open_embedder  # takes seconds to import
        from storage.search.meaning import make_vectors, vectors_are_current, vectors_path

        try:
            embedder = self._embedder or open_embedder(self._place, self._model)
            if not vectors_are_current(self._catalog, embedder):
                for _ in make_vectors(self._catalog, embedder):
                    pass
        except (ValueError, OSError) as error:
            self.failed = str(error)[:300]
            return
        self.failed = None
        self._embedder = embedder
        self._vectors = stamp, vectors_path(self._catalog, embedder)
