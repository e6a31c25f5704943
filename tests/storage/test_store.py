"""What is written is whole, found again, and held by one."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from interp.families import Norm
from interp.sparse import feature_tokens
from interp.transcoder import Transcoder
from storage import block_cache
from storage.block_cache import BlockCache
from storage.catalog.database import (
    SCHEMA_VERSION,
    check_catalog,
    insert_row,
    loaded_recipe,
    mark_loaded,
    open_catalog,
    replace_rows,
)
from storage.catalog.parts import read_parts, write_part
from storage.catalog.schema_page import schema_markdown
from storage.catalog.tables import TABLES
from storage.checkpoints import finish, open_checkpoint, write_embeddings, write_layer, write_single_token
from storage.hashing import fingerprints, remember_fingerprints, short_hash
from storage.store import Store, StoreInUseError, check_place, held, open_store, shards, whole_file, whole_folder
from tests.absent_device import NAME
from tests.storage.test_damage import ATTRIBUTES


def test_a_file_that_fails_while_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "a") as partial:
        (partial / "x").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with whole_folder(tmp_path / "a") as partial:
        (partial / "x").touch()
    assert (tmp_path / "a" / "x").exists()


def test_a_held_store_says_by_whom_and_is_free_after_kill_9(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from storage.store import Store, held\n"
        "with held(Store(Path(sys.argv[1])), 'run demo'):\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        (tmp_path / "left.0a1b2c3d.partial").touch()
        with pytest.raises(StoreInUseError, match=f"'run demo', process {holder.pid}"), held(Store(tmp_path), "second"):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert (tmp_path / "left.0a1b2c3d.partial").exists()
    with held(Store(tmp_path), "third"):
        assert not (tmp_path / "left.0a1b2c3d.partial").exists()


@given(n=st.integers(1, 5000), size=st.integers(1, 700))
def test_shards_tile_a_layer(n: int, size: int) -> None:
    covered = [feature for key in shards("r", 0, n, size) for feature in range(key.start, key.stop)]
    assert covered == list(range(n))


def test_recipes_depend_on_every_ingredient_and_not_on_order() -> None:
    assert short_hash(a=1, b=[2]) == short_hash(b=[2], a=1)
    assert short_hash(a=1, b=[2]) != short_hash(a=1, b=[3])
    with pytest.raises(TypeError, match="cannot be part of a recipe"):
        short_hash(a=object())


def test_fingerprints_are_remembered_until_a_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_text("one")
    store = open_store(tmp_path / "store")
    first = fingerprints(store, [file])
    remember_fingerprints(store, [file])
    assert fingerprints(store, [file]) == first
    file.write_text("other")
    assert fingerprints(store, [file]) != first


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_checkpoint_comes_back_as_it_went_in(tmp_path: Path, dtype: torch.dtype) -> None:
    store = Store(tmp_path)
    coder = Transcoder(
        W_enc=torch.randn(2500, 8), b_enc=torch.randn(2500), W_dec=torch.randn(2500, 8), b_dec=torch.randn(8),
        activation="jumprelu", threshold=torch.rand(2500), W_skip=torch.randn(8, 8),
    ).to(dtype)  # fmt: skip
    norm = Norm(torch.randn(8), None, 1e-5, centred=False)
    write_embeddings(store, "c", torch.randn(11, 8), torch.randn(11, 8), norm)
    write_layer(store, "c", 0, coder, norm, None)
    with pytest.raises(ValueError, match="not wholly ingested"):
        open_checkpoint(store, "c")
    finish(store, "c", replace(ATTRIBUTES, activation="jumprelu", k=None, n_layers=1))
    checkpoint = open_checkpoint(store, "c")
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip"):
        assert torch.equal(getattr(checkpoint.transcoder(0), name), getattr(coder, name).float()), name
    assert checkpoint.rows(0, "W_enc", 1000, 1100).dtype == dtype
    assert torch.equal(checkpoint.rows(0, "W_enc", 1000, 1100), coder.W_enc[1000:1100])
    assert checkpoint.vector(0, "write_weight") is None
    assert torch.equal(checkpoint.vector(0, "read_weight"), norm.weight)  # pyright: ignore


def test_a_missing_or_short_chunk_is_named_not_read_as_zeros(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write_embeddings(
        store, "c", torch.zeros(3000, 8), torch.ones(3000, 8), Norm(torch.ones(8), None, 1e-5, centred=False)
    )
    finish(store, "c", ATTRIBUTES)
    checkpoint = open_checkpoint(store, "c")
    assert checkpoint.rows(None, "W_E", 0, 3000).shape == (3000, 8)
    (checkpoint.path / "W_E" / "c" / "1" / "0").unlink()
    assert checkpoint.rows(None, "W_E", 0, 1024).shape == (1024, 8)
    with pytest.raises(ValueError, match=r"W_E/c/1/0: missing; the store is damaged"):
        checkpoint.rows(None, "W_E", 1000, 1100)
    chunk = checkpoint.path / "W_U" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"W_U/c/0/0: its CRC-32C is .* expected .*remove .*/c and run again"):
        checkpoint.rows(None, "W_U", 0, 10)


def test_tiles_are_the_array_whether_they_fit_in_memory_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.block_cache.TILE_ROWS", 100)
    store, W_E = Store(tmp_path), torch.randn(950, 8)
    write_embeddings(store, "c", W_E, -W_E, Norm(torch.ones(8), None, 1e-5, centred=False))
    finish(store, "c", ATTRIBUTES)
    for max_bytes in (0, 10_000, 10**9):
        cache = BlockCache(max_bytes)
        for _ in range(2):
            for stop in (950, 130):
                found = list(cache.tiles(open_checkpoint(store, "c"), None, "W_E", stop))
                assert [start for start, _ in found] == list(range(0, stop, 100))
                assert torch.equal(torch.cat([tile for _, tile in found]), W_E[:stop])
        assert cache.n_bytes <= max(max_bytes, 100 * 8 * 4)


def test_blocks_stay_on_a_device_as_far_as_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.block_cache.TILE_ROWS", 100)
    store, W_E = Store(tmp_path), torch.randn(450, 8)
    for name in ("c", "d"):
        write_embeddings(store, name, W_E, -W_E, Norm(torch.ones(8), None, 1e-5, centred=False))
        finish(store, name, ATTRIBUTES)
    cache = BlockCache(10**6, lambda _: 250 * 8 * 4)

    def found(checkpoint: str, array: str) -> list[Tensor]:
        return [tile for _, tile in cache.tiles(open_checkpoint(store, checkpoint), None, array, 450, NAME)]

    first, again, other = found("c", "W_E"), found("c", "W_E"), found("c", "W_U")
    assert [tile.device.type for tile in first] == [NAME, NAME, "cpu", "cpu", NAME]  # the last one is smaller
    assert all(one is two for one, two in zip(first, again, strict=True))
    assert {tile.device.type for tile in other} == {"cpu"}
    assert torch.equal(torch.cat([tile.cpu() for tile in first]), W_E)
    assert torch.equal(torch.cat([tile.cpu() for tile in other]), -W_E)
    assert [tile.device.type for tile in found("d", "W_U")[:3]] == [NAME, NAME, "cpu"]  # those of "c" are let go
    cache.clear()
    assert [tile.device.type for tile in found("d", "W_E")[:3]] == [NAME, NAME, "cpu"]
    assert {tile.device.type for _, tile in cache.tiles(open_checkpoint(store, "d"), None, "W_E", 450)} == {"cpu"}


def test_blocks_stay_on_the_cpu_after_one_did_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.block_cache.TILE_ROWS", 100)
    store, W_E = Store(tmp_path), torch.randn(450, 8)
    write_embeddings(store, "c", W_E, -W_E, Norm(torch.ones(8), None, 1e-5, centred=False))
    finish(store, "c", ATTRIBUTES)
    cache, copies, error = BlockCache(10**6, lambda _: 300 * 8 * 4), list[int](), RuntimeError("device is lost")
    to = Tensor.to

    def fails_once(tensor: Tensor, *args: Any) -> Tensor:
        copies.append(len(tensor))
        if len(copies) == 2:
            raise error
        return to(tensor, *args)

    def found() -> list[Tensor]:
        return [tile for _, tile in cache.tiles(open_checkpoint(store, "c"), None, "W_E", 450, NAME)]

    monkeypatch.setattr(Tensor, "to", fails_once)
    with pytest.raises(RuntimeError, match="device is lost"):
        found()
    assert [tile.device.type for tile in found()] == [NAME, NAME, NAME, "cpu", "cpu"]  # no room was lost
    cache.clear()
    copies.clear()
    freed: list[str] = []
    monkeypatch.setattr(block_cache, "free_unused", freed.append)
    error = torch.OutOfMemoryError("CUDA out of memory")
    assert [tile.device.type for tile in found()] == [NAME, *["cpu"] * 4]
    assert torch.equal(torch.cat([tile.cpu() for tile in found()]), W_E)
    assert copies[:2] == [100, 100]
    assert freed == [NAME]


@pytest.mark.parametrize("later", [False, True])
def test_what_features_write_beneath_a_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: bool) -> None:
    monkeypatch.setattr("storage.block_cache.TILE_ROWS", 100)
    store, n_layers, n = Store(tmp_path), 4, 250
    decoders = [torch.randn(n, n_layers - layer, 8) for layer in range(n_layers)]
    for layer, W_dec in enumerate(decoders):
        above = W_dec[:, 1:].contiguous() if later and layer < n_layers - 1 else None
        coder = Transcoder(
            torch.randn(n, 8), torch.zeros(n), W_dec[:, 0].contiguous(), torch.zeros(8), "relu", W_dec_later=above
        )
        write_layer(store, "c", layer, coder, None, None)
    finish(store, "c", replace(ATTRIBUTES, d_transcoder=n))
    checkpoint, cache = open_checkpoint(store, "c"), BlockCache(10**6)
    for layer in range(n_layers):
        for below in (*range(layer + 1, n_layers), *range(layer + 1, n_layers)):
            expected = decoders[layer][:, : below - layer if later else 1].sum(1)
            found = list(cache.written(checkpoint, layer, below))
            assert [start for start, _ in found] == [0, 100, 200]
            torch.testing.assert_close(torch.cat([tile for _, tile in found]), expected)
        expected = decoders[layer][30:90, : None if later else 1].sum(1)
        torch.testing.assert_close(checkpoint.written(layer, 30, 90), expected)


def test_single_token_activations_are_read_by_feature_range(tmp_path: Path) -> None:
    store = Store(tmp_path)
    feature, token = np.array([4, 0, 4, 2]), np.array([9, 1, 3, 5])
    write_single_token(store, "c", 0, feature_tokens(feature, token, np.arange(4, dtype=np.float32), 6))
    finish(store, "c", ATTRIBUTES)
    part = open_checkpoint(store, "c").single_token(0, 2, 5)
    assert part.indptr.tolist() == [0, 1, 1, 3]
    assert part.token.tolist() == [5, 3, 9]
    assert part.value.tolist() == [3.0, 2.0, 0.0]


def test_parts_repeat_scalars_and_refuse_unknown_columns(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    write_part(path, "failures", {"stage": "weightlens", "layer": 1, "feature": [3, 4]}, 2)
    table = read_parts([path], ["stage", "feature", "detail"])
    assert table.to_pylist() == [{"stage": "weightlens", "feature": f, "detail": None} for f in (3, 4)]
    with pytest.raises(KeyError, match="no columns"):
        write_part(path, "failures", {"stages": "x"}, 1)


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    write_part(path, "failures", {"feature": [3, 4]}, 2)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"p\.parquet: (its CRC-32C|damaged part).*the store is damaged"):
        read_parts([path], ["feature"])


class TestCatalog:
    def part(self, folder: Path, features: list[int]) -> Path:
        path = folder / f"{len(list(folder.iterdir()))}.parquet"
        columns = {"checkpoint_id": "c", "layer": 0, "feature": features, "method": "weightlens", "explainer": "tokens"}
        write_part(path, "descriptions", {**columns, "cluster": -1}, len(features))
        return path

    def test_rows_are_replaced_in_one_transaction(self, tmp_path: Path) -> None:
        catalog = tmp_path / "catalog.duckdb"
        for features in ([1, 2], [2, 3, 4]):
            part = self.part(tmp_path, features)
            with open_catalog(catalog, write=True) as connection:
                replace_rows(connection, "descriptions", {"checkpoint_id": "c"}, [part])
                mark_loaded(connection, "c", "weightlens", str(features))
        with open_catalog(catalog) as connection:
            assert connection.execute("SELECT feature FROM descriptions ORDER BY 1").fetchall() == [(2,), (3,), (4,)]
        assert loaded_recipe(catalog, "c", "weightlens") == "[2, 3, 4]"

    def test_a_failed_load_changes_nothing(self, tmp_path: Path) -> None:
        catalog = tmp_path / "catalog.duckdb"
        good, twice = self.part(tmp_path, [1]), self.part(tmp_path, [5, 5])
        with open_catalog(catalog, write=True) as connection:
            replace_rows(connection, "descriptions", {"checkpoint_id": "c"}, [good])
        with pytest.raises(ValueError, match="two rows with the key"), open_catalog(catalog, write=True) as connection:
            replace_rows(connection, "descriptions", {"checkpoint_id": "c"}, [twice])
        with open_catalog(catalog) as connection:
            assert connection.execute("SELECT feature FROM descriptions").fetchall() == [(1,)]

    def test_a_newer_schema_is_refused(self, tmp_path: Path) -> None:
        catalog = tmp_path / "catalog.duckdb"
        with open_catalog(catalog, write=True) as connection:
            connection.execute(f"UPDATE schema_version SET version = {SCHEMA_VERSION + 1}")
        with pytest.raises(ValueError, match=f"schema version {SCHEMA_VERSION + 1}.*update Circuit Insights"):
            check_catalog(catalog)

    def test_a_file_that_is_no_catalog_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "catalog.duckdb").write_bytes(b"x" * 10_000)
        with pytest.raises(ValueError, match="not a valid DuckDB database file"):
            check_catalog(tmp_path / "catalog.duckdb")

    def test_insert_row_replaces_by_key(self, tmp_path: Path) -> None:
        with open_catalog(tmp_path / "c.duckdb", write=True) as connection:
            for n_tokens in (1, 2):
                insert_row(connection, "corpora", {"corpus_id": "a", "n_tokens": n_tokens})
            assert connection.execute("SELECT corpus_id, n_tokens FROM corpora").fetchall() == [("a", 2)]


def test_every_key_column_exists() -> None:
    for table in TABLES.values():
        assert set(table.key) <= set(table.arrow.names), table.name


def test_the_schema_page_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "schema.md"
    assert page.read_text(encoding="utf-8") == schema_markdown(), "run `make schema`"


def test_only_what_a_store_leaves_behind_is_swept(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    mine = [tmp_path / "Downloads" / "film.0a1b2c3d.partial", tmp_path / "parts" / "notes.partial"]
    for path in mine:
        path.parent.mkdir()
        path.touch()
    left = tmp_path / "parts" / "x.parquet.0a1b2c3d.partial"
    left.touch()
    with held(store, "test"):
        assert all(path.exists() for path in mine)
        assert not left.exists()


def test_a_folder_of_other_things_is_no_place_for_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"has other content \(thesis.tex\)"):
        check_place(tmp_path)
    (tmp_path / "lock").touch()
    check_place(tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        check_place(tmp_path / "thesis.tex")
