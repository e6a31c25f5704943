"""Damage to a store is found where it is read, named, and never taken for data."""

import os
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch
import zarr

from interp.activations.encoding import Active
from interp.families import Norm
from interp.sparse import FeatureTokens
from interp.transcoder import Transcoder
from storage.activations import Block, block_path, open_block, pack_block, write_block
from storage.answers import AnswerStore, Kept
from storage.archives import read_arrays, write_arrays
from storage.catalog.database import check_database, insert_row, mark_loaded, open_catalog, replace_rows
from storage.catalog.parts import read_parts, write_part
from storage.catalog.published import ABANDONED_S, open_published, publish, published_path
from storage.catalog.restore import restore
from storage.checkpoints import (
    Checkpoint,
    CheckpointAttributes,
    finish,
    open_checkpoint,
    write_embeddings,
    write_layer,
    write_single_token,
)
from storage.checksums import DamagedError, check_file
from storage.coactivation import Matrices, make_matrices, matrices
from storage.damage import check, examine
from storage.layout import FOLDERS, KINDS, Origin, kind_of, placed
from storage.parquet import write_table
from storage.repair import repair
from storage.shared_shards import take_over
from storage.store import Store, read_json, write_json

N, D = 2500, 8

ATTRIBUTES = CheckpointAttributes(
    checkpoint_id="c", name="c", model_name="m", model_revision=None, transcoder_name="t", transcoder_revision=None,
    transcoder_format="circuit-tracer", folded=(), step=None, family="gpt2", activation="topk", k=4, n_layers=1,
    d_model=D, d_transcoder=N, d_vocab=11, n_tokens=11, bos=None, norms_centred=False, feature_input_hook="mlp_in",
    feature_output_hook="mlp_out", weights_sha256="w",
)  # fmt: skip


def flip(path: Path, bit: int) -> None:
    """Change one bit of a file, in a file of its own: copies share theirs."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.unlink()
    path.write_bytes(data)


def write_sums(store: Store) -> None:
    found = matrices(store, "sums", 0, 1, 4)
    make_matrices(found, 8)
    found.write(4, 0, np.random.default_rng(0).random((4, 4, 3)))


def write_blocks(store: Store) -> None:
    active = Active(
        np.arange(6, dtype=np.int64) * 2, np.arange(10, dtype=np.uint16), np.linspace(1, 2, 10, dtype=np.float32)
    )
    for block in (Block(0, 4), Block(4, 8)):
        write_block(block_path(store, "pass", block), [active, active], 40)
    pack_block(store, "pass", Block(4, 8))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with every kind of file that needs no model."""
    store = Store(tmp_path_factory.mktemp("store"))
    torch.manual_seed(0)
    write_embeddings(store, "c", torch.randn(11, D), torch.randn(11, D), Norm(torch.ones(D), None, 1e-5, centred=False))
    coder = Transcoder(torch.randn(N, D), torch.randn(N), torch.randn(N, D), torch.randn(D), "topk", k=4)
    write_layer(store, "c", 0, coder, Norm(torch.randn(D), None, 1e-5, centred=False), None)
    tokens = FeatureTokens(np.arange(N + 1), np.arange(N) % 11, np.linspace(1, 2, N, dtype=np.float32))
    write_single_token(store, "c", 0, tokens)
    finish(store, "c", ATTRIBUTES)
    write_blocks(store)
    write_sums(store)
    part = store.parts("features", "r") / "layer-00" / "features-0-9.parquet"
    write_part(part, "features", {"feature": np.arange(9), "n_active": np.arange(9) * 7}, 9)
    write_arrays(store.root / "evaluation" / "r" / "natural" / "00.npz", {"a": np.arange(500), "b": np.arange(3.0)})
    write_json(store.root / "reports" / "r" / "layer-00.json", {"layer": 0, "figures": [1, 2, 3]})
    AnswerStore(store).write("ab" * 32, Kept("yes", None, "", 1, []))
    assert not take_over(store, "ingredients", "r", lambda recipe: [store.root / "nothing"])
    with open_catalog(store.catalog, write=True) as connection:
        insert_row(connection, "runs", {"run_id": "run", "stage": "ingest"})
        replace_rows(connection, "features", {"checkpoint_id": "c"}, [part])
    publish(store.catalog)
    return store


def arrays_of(tokens: FeatureTokens) -> list[np.ndarray]:
    return [tokens.indptr, tokens.token, tokens.value]


READERS: dict[str, Callable[[Store], object]] = {
    "checkpoints/c/W_E": lambda store: open_checkpoint(store, "c").rows(None, "W_E", 0, 11).numpy(),
    "checkpoints/c/layers/00": lambda store: [
        tensor.float().numpy()
        for name in ("W_enc", "b_enc", "W_dec", "b_dec", "read_weight")
        for tensor in [open_checkpoint(store, "c").vector(0, name)]
        if tensor is not None
    ],
    "checkpoints/c/layers/00/receipt.json": lambda store: Checkpoint(store.checkpoint("c")).sha256(0),
    "checkpoints/c/zarr.json": lambda store: open_checkpoint(store, "c").attributes,
    "checkpoints/c/single_token": lambda store: arrays_of(open_checkpoint(store, "c").single_token(0, 0, N)),
    "activations/pass/rows": lambda store: [
        (block.n_counted, arrays_of(block.features(layer, 0, 5)))
        for block in [open_block(store, "pass", Block(0, 4))]
        for layer in range(2)
    ],
    "activations/pass/packed": lambda store: [
        (block.n_counted, arrays_of(block.features(layer, 0, 5)))
        for block in [open_block(store, "pass", Block(4, 8))]
        for layer in range(2)
    ],
    "coactivation": lambda store: [
        matrices(store, "sums", 0, 1, 4).read(name, slice(4, 8), slice(0, 4))
        for name in ("sum_product", "sum_source_active", "n_coactive")
    ],
    "parts": lambda store: read_parts([next(store.root.glob("parts/*/*/*/*.parquet"))], ["feature", "n_active"]),
    "evaluation": lambda store: list(read_arrays(next(store.root.glob("evaluation/*/*/*.npz"))).values()),
    "reports": lambda store: read_json(next(store.root.glob("reports/*/*.json"))),
    "answers": lambda store: AnswerStore(store).read("ab" * 32),
    "equals": lambda store: read_json(next(store.root.glob("equals/*.json"))),
}


def copied(store: Store, folder: Path) -> Store:
    """A store whose files are the same, but for the catalogs, which DuckDB changes in place."""

    def copy(source: str, target: str) -> None:
        (shutil.copy2 if source.endswith(".duckdb") else os.link)(source, target)

    return Store(Path(shutil.copytree(store.root, folder / "copy", copy_function=copy)))


@pytest.mark.parametrize("place", READERS)
def test_no_flipped_bit_is_read_as_data(written: Store, tmp_path: Path, place: str) -> None:
    read, draw = READERS[place], random.Random(place)
    expected = pickle.dumps(read(written))
    files = [path for path in sorted(written.root.rglob("*")) if path.is_file() and path.stat().st_size]
    files = [path for path in files if path.relative_to(written.root).as_posix().startswith(place)]
    said: list[str] = []
    for at in range(24):
        store = copied(written, tmp_path / str(at))
        path = store.root / draw.choice(files).relative_to(written.root)
        flip(path, draw.randrange(8 * path.stat().st_size))
        try:
            found = pickle.dumps(read(store))
        except DamagedError as error:
            said.append(str(error).replace(str(store.root), "STORE"))
        else:
            assert found == expected, path
    assert len(said) > 8
    assert all("STORE" in one and "the store is damaged: " in one for one in said), said


def test_every_file_of_a_store_is_of_a_kind_and_whole(written: Store) -> None:
    for path in written.root.rglob("*"):
        if path.is_file() and "tiles" not in path.parts:
            assert kind_of(path.relative_to(written.root).as_posix()) is not None, path
    found = list(examine(written.root, check_database))
    assert [one.problem for one in found if one.problem] == []
    assert all(one.has_checksum for one in found)
    assert {one.path.suffix for one in found} == {".json", ".parquet", ".npz", ".duckdb"}


def test_examining_names_what_is_damaged_and_missing(written: Store, tmp_path: Path) -> None:
    store = copied(written, tmp_path)
    flip(store.root / "parts/features/r/layer-00/features-0-9.parquet", 500)
    flip(store.root / "checkpoints/c/layers/00/W_enc/c/1/0", 7)
    (store.root / "checkpoints/c/layers/00/b_enc/c/0").unlink()
    (store.root / "coactivation/sums/00-01/n_coactive/c/1/0").unlink()
    damaged = {
        one.path.relative_to(store.root).as_posix(): one for one in examine(store.root, check_database) if one.problem
    }
    assert set(damaged) == {
        "parts/features/r/layer-00/features-0-9.parquet",
        "checkpoints/c/layers/00/W_enc/c/1/0",
        "checkpoints/c/layers/00/b_enc/c/0",
        "coactivation/sums/00-01/n_coactive/c/1/0",
    }  # fmt: skip
    assert damaged["checkpoints/c/layers/00/b_enc/c/0"].problem == "missing"


def test_a_deleted_receipt_is_named(written: Store, tmp_path: Path) -> None:
    store = copied(written, tmp_path)
    (store.root / "checkpoints/c/layers/00/receipt.json").unlink()
    with pytest.raises(DamagedError, match=r"00/receipt\.json: cannot be read .*remove .*/checkpoints/c and run again"):
        open_checkpoint(store, "c").sha256(0)


def test_arrays_of_earlier_versions_are_compared_with_their_sha256(tmp_path: Path) -> None:
    store, W_E = Store(tmp_path), torch.randn(3000, D)
    write_embeddings(store, "c", W_E, -W_E, Norm(torch.ones(D), None, 1e-5, centred=False))
    finish(store, "c", ATTRIBUTES)
    for name in ("W_E", "W_U"):  # as they were written before chunks had checksums
        path = store.checkpoint("c") / name
        attributes = dict(zarr.open_array(path, mode="r").attrs)
        shutil.rmtree(path)
        attributes.pop("checksum")
        old = zarr.create_array(path, shape=W_E.shape, chunks=(1024, D), dtype="float32", compressors=None)
        old[...] = W_E.numpy() if name == "W_E" else -W_E.numpy()
        old.attrs.update(attributes)
    flip(store.checkpoint("c") / "W_U" / "c" / "2" / "0", 1000)
    checkpoint = open_checkpoint(store, "c")
    assert torch.equal(checkpoint.rows(None, "W_E", 10, 20), W_E[10:20])
    with pytest.raises(DamagedError, match="SHA-256"):
        checkpoint.rows(None, "W_U", 10, 20)


def test_a_file_is_read_for_its_checksum_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reads = tmp_path / "a.parquet", []
    write_table(path, pa.table({"a": range(100)}))
    monkeypatch.setattr("storage.checksums._crc32c", lambda *_: reads.append(1) or b"00000000")
    for _ in range(3):
        with pytest.raises(DamagedError):
            check_file(path)
    monkeypatch.undo()
    reads.clear()
    assert check_file(path)
    monkeypatch.setattr("storage.checksums._crc32c", lambda *_: reads.append(1) or b"00000000")
    assert check_file(path)
    assert reads == []


def test_copies_from_other_checkpoints_are_compared(written: Store, tmp_path: Path) -> None:
    store = copied(written, tmp_path)
    write_json(store.equals("same"), {"recipes": ["r"]})
    path = store.parts("features", "r") / "layer-00" / "features-0-9.parquet"
    flip(path, 900)
    with pytest.raises(DamagedError, match="features-0-9"):
        take_over(store, "same", "other", lambda recipe: [store.parts("features", recipe) / "layer-00" / path.name])


def test_the_layout_is_whole() -> None:
    names = {kind.name for kind in KINDS}
    assert len(names) == len(KINDS)
    assert {source for kind in KINDS for source in kind.made_from} <= names
    assert {"parts", "evaluation", "equals", "reports", "answers"} < set(FOLDERS)
    assert not any(kind.is_repaired for kind in KINDS if kind.origin is Origin.INGESTED)
    for folder in ("checkpoints/0123/W_E", "activations/0123/rows-0-9", "coactivation/0123/00-01"):
        assert placed(Path("/store") / folder) is not None
    found = placed(Path("/some/parts/store/checkpoints/0123/layers/07/W_enc/c/0/0"))
    assert found is not None
    assert (found.root, found.unit) == (Path("/some/parts/store"), Path("/some/parts/store/checkpoints/0123"))


def test_a_repair_removes_what_is_derived_and_has_it_made_again(written: Store, tmp_path: Path) -> None:
    store = copied(written, tmp_path)
    with open_catalog(store.catalog, write=True) as connection:
        mark_loaded(connection, "c corpus", "activations", "stage")
        mark_loaded(connection, "other", "weightlens", "stage")
    derived = [
        "parts/features/r/layer-00/features-0-9.parquet",
        "checkpoints/c/single_token/00/value/c/0",
        "coactivation/sums/00-01/n_coactive/c/1/0",
        "activations/pass/packed-4-8/gap/c/0",
        "evaluation/r/natural/00.npz",
    ]
    ingested = "checkpoints/c/layers/00/W_enc/c/1/0"
    for name in (*derived, ingested):
        flip(store.root / name, 8 * 30 + 1)
    found = list(examine(store.root, check_database))
    assert sum(one.problem is not None for one in found) == 6
    assert len(repair(store, found)) == 5
    assert not any((store.root / name).exists() for name in derived)
    left = [one for one in examine(store.root, check_database) if one.problem]
    assert [one.path.relative_to(store.root).as_posix() for one in left] == [ingested]
    with open_catalog(store.catalog) as connection:
        assert connection.execute("SELECT subject FROM loaded").fetchall() == [("other",)]


class TestCatalog:
    @pytest.fixture
    def store(self, written: Store, tmp_path: Path) -> Iterator[Store]:
        return copied(written, tmp_path)

    def damage(self, path: Path) -> None:
        """Every block's data, the file's head aside."""
        data = bytearray(path.read_bytes())
        for at in range(3 * 4096 + 1000, len(data), 1 << 18):
            data[at] ^= 1
        path.unlink()
        path.write_bytes(data)

    def runs(self, connection: duckdb.DuckDBPyConnection) -> list[tuple[str, ...]]:
        return connection.execute("SELECT run_id FROM runs ORDER BY 1").fetchall()

    @pytest.mark.parametrize("how", ["cut", "flipped"])
    def test_a_damaged_one_is_never_published(self, store: Store, how: str, capsys: pytest.CaptureFixture[str]) -> None:
        good = published_path(store.catalog).read_bytes()
        if how == "cut":
            data = store.catalog.read_bytes()
            store.catalog.unlink()
            store.catalog.write_bytes(data[:100_000])
        else:
            self.damage(store.catalog)
        with pytest.raises(DamagedError, match=r"catalog\.duckdb: .*doctor"):
            publish(store.catalog)
        with open_published(store.catalog) as connection:
            assert self.runs(connection) == [("run",)]
        assert published_path(store.catalog).read_bytes() == good
        assert "this is from catalog.published.duckdb" in capsys.readouterr().err

    def test_it_is_made_again_from_its_copy(self, store: Store) -> None:
        self.damage(store.catalog)
        said = restore(store.catalog)
        assert said is not None
        assert "restored from catalog.published.duckdb" in said
        with open_catalog(store.catalog) as connection:
            assert self.runs(connection) == [("run",)]
            assert connection.execute("SELECT count(*) FROM features").fetchall() == [(9,)]
        assert restore(store.catalog) is None
        assert len(list(store.root.glob("catalog.damaged-*"))) == 1

    def test_without_a_copy_it_keeps_what_no_part_has(self, written: Store, tmp_path: Path) -> None:
        n_kept = 0
        for at in range(3 * 4096 + 1000, written.catalog.stat().st_size, 1 << 18):
            store = copied(written, tmp_path / str(at))
            published_path(store.catalog).unlink()
            flip(store.catalog, 8 * at)
            said = restore(store.catalog)
            if said is not None and "without parts, runs" in said:
                n_kept = 1
                with open_catalog(store.catalog) as connection:
                    assert self.runs(connection) == [("run",)]
                    assert connection.execute("SELECT count(*) FROM features").fetchall() == [(0,)]
                break
        assert n_kept > 0

    def test_one_that_is_gone_is_made_again_from_its_copy(self, store: Store) -> None:
        store.catalog.unlink()
        assert "(missing)" in str(restore(store.catalog))
        with open_catalog(store.catalog) as connection:
            assert self.runs(connection) == [("run",)]

    def test_a_damaged_copy_is_made_anew(self, store: Store) -> None:
        copy = published_path(store.catalog)
        data = bytearray(copy.read_bytes())
        copy.unlink()
        copy.write_bytes(data[:200])
        with open_published(store.catalog) as connection:
            assert self.runs(connection) == [("run",)]

    def test_what_a_killed_publication_left_is_swept(self, store: Store) -> None:
        old, new = (store.root / f"catalog.published.duckdb.0000000{n}.partial" for n in (1, 2))
        for path in (old, new):
            path.touch()
        os.utime(old, (1, 1))
        with open_catalog(store.catalog, write=True) as connection:
            insert_row(connection, "runs", {"run_id": "next", "stage": "ingest"})
        with open_published(store.catalog) as connection:
            assert len(self.runs(connection)) == 2
        assert not old.exists()
        assert new.exists()
        assert ABANDONED_S > 60


def test_tiles_know_their_file(written: Store) -> None:
    found = Matrices(written.root / "coactivation" / "sums" / "00-01", 4)
    assert found.has(4, 0)
    assert check(written.root / "coactivation" / "sums" / "00-01" / "n_coactive" / "zarr.json")
