"""Features with similar decoders, from the store's arrays, since the catalog does not have decoders."""

import threading
from functools import lru_cache
from pathlib import Path

import numpy as np

ROWS_AT_ONCE = 2048
"""Decoders in memory at a time: 6 MB at a width of 768."""

_one_at_a_time = threading.Lock()


@lru_cache(maxsize=1024)
def nearest(checkpoint: Path, layer: int, feature: int, n: int) -> list[tuple[int, float]] | None:
    """The `n` features of the layer with the greatest cosine to a feature's decoder, and the cosines; None if the store
    does not have the checkpoint's arrays."""
    path = checkpoint / "layers" / f"{layer:02d}" / "W_dec"
    if not path.is_dir():
        return None
    from storage.arrays import (
        open_array,
        read_slice,
    )  # takes half a second

    with _one_at_a_time:
        array = open_array(path)
        is_bfloat16 = array.attrs["dtype"] == "bfloat16"

        def rows(start: int, stop: int) -> np.ndarray:
            block = read_slice(array, path, start, stop)
            return (block.astype(np.uint32) << 16).view(np.float32) if is_bfloat16 else block.astype(np.float32)

        own = rows(feature, feature + 1)[0]
        cosines = np.empty(array.shape[0], np.float32)
        for start in range(0, array.shape[0], ROWS_AT_ONCE):
            block = rows(start, start + ROWS_AT_ONCE)
            norms = np.linalg.norm(block, axis=1) * np.linalg.norm(own)
            products = block @ own
            cosines[start : start + len(block)] = np.divide(
                products, norms, out=np.zeros_like(products), where=norms > 0
            )
    cosines[feature] = -np.inf
    best = np.argsort(-cosines, kind="stable")[:n]
    return [(int(one), float(cosines[one])) for one in best if np.isfinite(cosines[one])]
