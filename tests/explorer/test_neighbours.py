"""Neighbours by decoder are those of the obvious computation."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from explorer.neighbours import nearest


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nearest_decoders_are_found_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.setattr("explorer.neighbours.ROWS_AT_ONCE", 7)
    W_dec = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    W_dec[5] = 0
    bits = (W_dec.view(np.uint32) >> 16).astype(np.uint16)
    kept = W_dec if dtype == "float32" else bits
    path = tmp_path / "layers" / "02" / "W_dec"
    zarr.create_array(path, data=kept, chunks=(10, 8), attributes={"dtype": dtype})
    exact = W_dec if dtype == "float32" else (bits.astype(np.uint32) << 16).view(np.float32)
    unit = exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-30)
    cosines = unit @ unit[3]
    cosines[3] = -2
    expected = np.argsort(-cosines)[:4]
    found = nearest(tmp_path, 2, 3, 4)
    assert found is not None
    assert [one for one, _ in found] == expected.tolist()
    assert [cosine for _, cosine in found] == pytest.approx(cosines[expected].tolist(), abs=1e-6)


def test_without_arrays_there_are_none(tmp_path: Path) -> None:
    assert nearest(tmp_path, 0, 0, 4) is None
