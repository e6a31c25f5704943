"""New checkpoints of a folder: found in order, left while written, described once, compared with the one before."""

import shutil
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from configs.run import load_config
from flows.watch_checkpoints import found_checkpoints, is_complete, watch_checkpoints
from storage.published import open_published
from tests.conftest import planted_overrides


def test_folders_come_by_the_number_in_their_name(tmp_path: Path) -> None:
    for name in ("step-10", "step-9", "step-x", "other-1"):
        (tmp_path / name).mkdir()
    assert [found.step for found in found_checkpoints(tmp_path, "step-*")] == [9, 10]
    with pytest.raises(ValueError, match="no folder"):
        found_checkpoints(tmp_path / "missing", "step-*")


def test_a_folder_that_is_being_written_is_left(tmp_path: Path) -> None:
    planted_overrides(tmp_path)
    model = tmp_path / "model"
    weights = model / "model.safetensors"
    assert not is_complete(model, "model", settle_s=1000)
    assert is_complete(model, "model", settle_s=0)
    (model / "model.safetensors.tmp").touch()
    assert not is_complete(model, "model", settle_s=0)
    (model / "model.safetensors.tmp").unlink()
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    assert not is_complete(model, "model", settle_s=0)
    weights.unlink()
    assert not is_complete(model, "model", settle_s=0)


def test_each_is_described_once_and_compared_with_the_one_before(tmp_path: Path, prefect_api: str) -> None:
    overrides = [*planted_overrides(tmp_path), "engine.workers=1"]
    config, place = load_config(Path("configs/demo.yaml"), overrides), tmp_path / "series"
    for step in (1, 2):
        shutil.copytree(tmp_path / "transcoders", place / f"step-{step}")
    # step 2 is another release: one that says more of itself
    path = place / "step-2" / "config.yaml"
    path.write_text(path.read_text() + "\n# step 2\n")
    (place / "step-3").mkdir()
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        ids = watch_checkpoints(config, place, series="transcoder", settle_s=0)
        assert len(set(ids)) == 2
        assert watch_checkpoints(config, place, series="transcoder", settle_s=0) == []
    with open_published(tmp_path / "store" / "catalog.duckdb") as connection:
        names = connection.execute("SELECT name, step FROM checkpoints ORDER BY step").fetchall()
        assert names == [("planted-step-1", 1), ("planted-step-2", 2)]
        query = "SELECT count(*) FROM drift WHERE checkpoint_a = ? AND checkpoint_b = ? AND fate = 'kept'"
        assert connection.execute(query, ids).fetchall() == [(3,)]
    [report] = (tmp_path / "store" / "reports").iterdir()
    assert report.name == f"drift-{ids[0]}-{ids[1]}"
