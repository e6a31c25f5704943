"""New checkpoints of a folder: found in order, left while written, described once, compared with the one before."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from prefect.settings import PREFECT_API_URL, temporary_settings

from configs.load import load_config
from flows.describe_arrived import describe_arrived
from flows.inputs.series import arrived, found_checkpoints, is_complete
from flows.watch_checkpoints import announce_checkpoints, watch_checkpoints
from storage.catalog.published import open_published
from storage.store import Store, held
from tests.conftest import planted_overrides
from tests.hub_server import COMMIT, OLDER, HubServer

pytestmark = pytest.mark.whole


def test_folders_come_by_the_number_in_their_name(tmp_path: Path) -> None:
    for name in ("step-10", "step-9", "step-x", "other-1"):
        (tmp_path / name).mkdir()
    assert [found.step for found in found_checkpoints(str(tmp_path), "step-*")] == [9, 10]
    with pytest.raises(ValueError, match="no folder"):
        found_checkpoints(str(tmp_path / "missing"), "step-*")


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


def test_branches_of_a_repository_come_by_the_number_in_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*planted_overrides(tmp_path), "model.path=null", "model.repo=someone/model"]
    config = load_config(Path("configs/demo.yaml"), overrides)
    with HubServer() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("storage.hub.HfApi", lambda: HfApi(hub.url))
        hub.repos = {"someone/model": tmp_path / "model"}
        hub.branches = {"someone/model": {"step20": COMMIT, "step3": OLDER, "other": OLDER}}
        new = [one for _, one in arrived(config, "hf://someone/model", "step*", "model", 0) if one is not None]
    assert [(one.step, one.name) for one in new] == [(3, f"step3 {OLDER[:12]}"), (20, f"step20 {COMMIT[:12]}")]
    assert [one.config.model.revision for one in new] == [OLDER, COMMIT]
    assert [one.config.name for one in new] == ["planted-step3", "planted-step20"]


def test_each_is_described_once_and_compared_whatever_order_they_come_in(tmp_path: Path, prefect_api: str) -> None:
    overrides = [*planted_overrides(tmp_path), "engine.workers=1"]
    config, place = load_config(Path("configs/demo.yaml"), overrides), tmp_path / "series"
    for step in (1, 2, 3):
        shutil.copytree(tmp_path / "transcoders", place / f"step-{step}")
        path = place / f"step-{step}" / "config.yaml"
        path.write_text(path.read_text() + f"\n# step {step}\n")  # another release: one that says more of itself
    (place / "step-4").mkdir()
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        watched = (config, str(place), "step*", "transcoder", 0)
        events: list[dict] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("flows.watch_checkpoints.emit_event", lambda *_, payload: events.append(payload))
            assert announce_checkpoints(*watched) == ["step-1", "step-2", "step-3"]
            ids = {}
            for step in (3, 1, 3):  # the second event is lost, the first is late, the third comes twice
                ids[step] = describe_arrived(**events[step - 1])
            with held(Store(tmp_path / "store"), "another run"):
                assert announce_checkpoints(*watched) == []
            assert announce_checkpoints(*watched) == ["step-2"]
        [ids[2]] = watch_checkpoints(*watched)
        assert watch_checkpoints(*watched) == []
    with open_published(tmp_path / "store" / "catalog.duckdb") as connection:
        names = connection.execute("SELECT name, step FROM checkpoints ORDER BY step").fetchall()
        assert names == [("planted-step-1", 1), ("planted-step-2", 2), ("planted-step-3", 3)]
        query = "SELECT DISTINCT checkpoint_a, checkpoint_b FROM drift WHERE fate = 'kept'"
        compared = set(connection.execute(query).fetchall())
        assert compared == {(ids[1], ids[3]), (ids[1], ids[2]), (ids[2], ids[3])}
    assert len(list((tmp_path / "store" / "reports").iterdir())) == 3
