"""A cache for blocks of arrays, because every shard of a layer reads the same ones."""

from collections.abc import Callable, Hashable, Iterator
from functools import partial
from threading import Lock

from jaxtyping import Float
from torch import Tensor

from interp.batches import free_unused, is_out_of_memory
from storage.checkpoints import Checkpoint
from storage.lru_cache import LRUCache

TILE_ROWS = 2048
"""Rows in a block: 6 MB at d_model 768 in float32."""


class BlockCache:
    """LRU cache of blocks, bounded by `max_bytes`. Thread-safe; entries never go stale, since checkpoints do not
    change.

    Blocks of the checkpoint that was read last stay on a GPU as far as they fit. The first ones that are read are kept:
    embeddings, and decoders of low layers, which most layers read. When a block does not fit, no more are copied.
    """

    def __init__(self, max_bytes: int, room_on: Callable[[str], int] | None = None) -> None:
        """`room_on` returns the bytes that blocks may take on a device; without it, they stay on the CPU."""
        self.max_bytes = max_bytes
        self._held: LRUCache[Tensor] = LRUCache(max_bytes, lambda tile: tile.nbytes)
        self._room_on, self._lock = room_on or (lambda _: 0), Lock()
        self._there: dict[Hashable, Tensor] = {}
        self._there_of: Hashable = None
        self._left = 0

    def tiles(
        self, checkpoint: Checkpoint, layer: int | None, name: str, stop: int, device: str = "cpu"
    ) -> Iterator[tuple[int, Float[Tensor, "tile d_model"]]]:
        """An array's rows up to `stop` in blocks, each with the index of its first row. Blocks that do not fit on the
        device are on the CPU."""
        for start in range(0, stop, TILE_ROWS):
            end = min(start + TILE_ROWS, stop)
            key = (checkpoint.path, layer, name, start, end)
            yield start, self._block(device, key, partial(checkpoint.rows, layer, name, start, end))

    def written(
        self, checkpoint: Checkpoint, layer: int, below: int, device: str = "cpu"
    ) -> Iterator[tuple[int, Float[Tensor, "tile d_model"]]]:
        """Blocks of the decoders with which a layer's features write to layers below `below`."""
        if not checkpoint.cross_layer:
            yield from self.tiles(checkpoint, layer, "W_dec", checkpoint.d_transcoder, device)
            return
        for start in range(0, checkpoint.d_transcoder, TILE_ROWS):
            end = min(start + TILE_ROWS, checkpoint.d_transcoder)
            key = (checkpoint.path, layer, "W_dec", start, end, below)
            yield start, self._block(device, key, partial(checkpoint.written, layer, start, end, below))

    def _block(self, device: str, key: tuple[Hashable, ...], read: Callable[[], Tensor]) -> Tensor:
        if device == "cpu":
            return self._held.get(key, read)
        with self._lock:
            if self._there_of != (device, key[0]):  # another checkpoint
                self._there, self._there_of, self._left = {}, (device, key[0]), self._room_on(device)
            if key in self._there:
                return self._there[key]
        block = self._held.get(key, read)
        with self._lock:
            if self._there_of != (device, key[0]) or block.nbytes > self._left or key in self._there:
                return self._there.get(key, block)
            self._left -= block.nbytes
        try:
            placed = block.to(device)  # the copy is finished when another thread finds the block
        except RuntimeError as error:
            with self._lock:
                if self._there_of == (device, key[0]):  # there is less room than was thought, or another reason to fail
                    self._left = 0 if is_out_of_memory(error) else self._left + block.nbytes
            if not is_out_of_memory(error):
                raise
            placed = None
        if placed is None:
            free_unused(device)  # the products with the block have at least as much room as the copy found
            return block
        with self._lock:
            if self._there_of == (device, key[0]):
                self._there[key] = placed
        return placed

    @property
    def n_bytes(self) -> int:
        """Bytes of the blocks in the cache."""
        return self._held.n_bytes

    def clear(self) -> None:
        """Empty the cache, on the CPU and on devices."""
        self._held.clear()
        with self._lock:
            self._there, self._there_of = {}, None
