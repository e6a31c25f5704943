"""Blocks of arrays kept in memory, because every shard of a layer reads the same ones."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

from jaxtyping import Float
from torch import Tensor

from storage.checkpoints import Checkpoint

TILE_ROWS = 4096
"""Rows a block: 12 MB at d_model 768 in float32."""

Key = tuple[Path, int | None, str, int]


class TileCache:
    """The most recently used blocks, up to `max_bytes`. Threads may share it; checkpoints never change."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._held: OrderedDict[Key, Tensor] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    def tiles(
        self, checkpoint: Checkpoint, layer: int | None, name: str, stop: int
    ) -> Iterator[tuple[int, Float[Tensor, "tile d_model"]]]:
        """An array's rows up to `stop` in blocks, each with the index of its first row."""
        for start in range(0, stop, TILE_ROWS):
            yield start, self._tile(checkpoint, layer, name, start, min(start + TILE_ROWS, stop))

    def _tile(self, checkpoint: Checkpoint, layer: int | None, name: str, start: int, stop: int) -> Tensor:
        key = (checkpoint.path, layer, name, start)
        with self._lock:
            if key in self._held and len(self._held[key]) == stop - start:
                self._held.move_to_end(key)
                return self._held[key]
        tile = checkpoint.rows(layer, name, start, stop)
        with self._lock:
            self._drop(key)
            self._held[key] = tile
            self._size += tile.nbytes
            while self._size > self.max_bytes:
                self._drop(next(iter(self._held)))
        return tile

    def _drop(self, key: Key) -> None:
        if key in self._held:
            self._size -= self._held.pop(key).nbytes
