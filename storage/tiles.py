"""Blocks of arrays kept in memory, because every shard of a layer reads the same ones."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Lock

from jaxtyping import Float
from torch import Tensor

from storage.checkpoints import Checkpoint

TILE_ROWS = 2048
"""Rows a block: 6 MB at d_model 768 in float32."""

Key = tuple[Path, int | None, str, int, int | None]


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
            end = min(start + TILE_ROWS, stop)
            key = (checkpoint.path, layer, name, start, None)
            yield start, self._tile(key, end, partial(checkpoint.rows, layer, name, start, end))

    def written(
        self, checkpoint: Checkpoint, layer: int, below: int
    ) -> Iterator[tuple[int, Float[Tensor, "tile d_model"]]]:
        """What a layer's features write beneath layer `below`, in blocks likewise."""
        if not checkpoint.cross_layer:
            yield from self.tiles(checkpoint, layer, "W_dec", checkpoint.d_transcoder)
            return
        for start in range(0, checkpoint.d_transcoder, TILE_ROWS):
            end = min(start + TILE_ROWS, checkpoint.d_transcoder)
            key = (checkpoint.path, layer, "W_dec", start, below)
            yield start, self._tile(key, end, partial(checkpoint.written, layer, start, end, below))

    def clear(self) -> None:
        """Let go of all blocks."""
        with self._lock:
            self._held.clear()
            self._size = 0

    def _tile(self, key: Key, stop: int, read: Callable[[], Tensor]) -> Tensor:
        *_, start, _ = key
        with self._lock:
            if key in self._held and len(self._held[key]) == stop - start:
                self._held.move_to_end(key)
                return self._held[key]
        tile = read()
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
