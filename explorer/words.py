"""The index of words of the current catalog. It is made while pages are served; until it is finished, they say so."""

import threading
from pathlib import Path

from storage.search.index import SearchIndex, current_index, open_index


class Words:
    """The newest index of a catalog, opened again when it is replaced."""

    def __init__(self, catalog: Path) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._opened: tuple[int, SearchIndex] | None = None
        self._making: threading.Thread | None = None

    def index(self) -> SearchIndex | None:
        """The index; None while it is being made. Starts making it if it is not up to date."""
        path = current_index(self._catalog)
        with self._lock:
            if path is None:
                self._make()
                return None
            inode = path.stat().st_ino
            if self._opened is None or self._opened[0] != inode:
                self._opened = inode, SearchIndex(path)
            return self._opened[1]

    def _make(self) -> None:
        if self._making is None or not self._making.is_alive():
            self._making = threading.Thread(target=self._build, daemon=True)
            self._making.start()

    def _build(self) -> None:
        open_index(self._catalog).close()
