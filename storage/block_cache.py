"""A cache for blocks of arrays, because every shard of a layer reads the same ones."""

from collections.abc import Iterator
from functools import partial

from jaxtyping import Float
from torch import Tensor

from storage.checkpoints import Checkpoint
from storage.lru_cache import LRUCache

TILE_ROWS = 2048
"""Rows in a block: 6 MB at d_model 768 in float32."""


class BlockCache:
    """LRU cache of blocks, bounded by `max_bytes`. Thread-safe; entries never go stale, since checkpoints do not
    change."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._held: LRUCache[Tensor] = LRUCache(max_bytes, lambda tile: tile.nbytes)

    def tiles(
        self, checkpoint: Checkpoint, layer: int | None, name: str, stop: int
    ) -> Iterator[tuple[int, Float[Tensor, "tile d_model"]]]:
        """An array's rows up to `stop` in blocks, each with the index of its first row."""
        for start in range(0, stop, TILE_ROWS):
            end = min(start + TILE_ROWS, stop)
            key = (checkpoint.path, layer, name, start, end)
            yield start, self._held.get(key, partial(checkpoint.rows, layer, name, start, end))

    def written(
        self, checkpoint: Checkpoint, layer: int, below: int
    ) -> Iterator[tuple[int, Float[Tensor, "tile d_model"]]]:
        """Blocks of the decoders with which a layer's features write to layers below `below`."""
        if not checkpoint.cross_layer:
            yield from self.tiles(checkpoint, layer, "W_dec", checkpoint.d_transcoder)
            return
        for start in range(0, checkpoint.d_transcoder, TILE_ROWS):
            end = min(start + TILE_ROWS, checkpoint.d_transcoder)
            key = (checkpoint.path, layer, "W_dec", start, end, below)
            yield start, self._held.get(key, partial(checkpoint.written, layer, start, end, below))

    @property
    def n_bytes(self) -> int:
        """Bytes of the blocks in the cache."""
        return self._held.n_bytes

    def clear(self) -> None:
        """Empty the cache."""
        self._held.clear()
