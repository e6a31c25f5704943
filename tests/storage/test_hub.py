"""Downloads from a Hub that runs in the test."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import _tree_cache, constants
from huggingface_hub.utils import close_session

from flows.inputs.origin import MODEL_FILES
from storage.hub import fetch, missing, remote_shapes, resolve, select
from storage.models import open_model
from tests.hub_server import COMMIT, OLDER, HubServer
from tests.planted import write_planted

TOKEN = "hf_thisIsVerySecret"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The planted model as `someone/model`, with files beside it that nobody should fetch."""
    model, transcoders, _ = write_planted(tmp_path)
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    (model / "modeling_planted.py").write_text("raise SystemExit")
    (model / "onnx").mkdir()
    (model / "onnx" / "other.safetensors").write_bytes(b"other")
    with HubServer() as server:
        server.repos = {"someone/model": model, "someone/transcoders": transcoders}
        home = tmp_path / "home"
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HOME", str(home))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
        close_session()


def refused(repo: str, revision: str = "main") -> str:
    with pytest.raises(ValueError, match=r".") as error:
        fetch(repo, revision, MODEL_FILES)
    assert TOKEN not in str(error.value)
    assert str(error.value).count("\n") == 0
    return str(error.value)


def test_a_model_is_fetched_without_pickles_and_code(hub: HubServer) -> None:
    folder, commit = fetch("someone/model", "main", MODEL_FILES)
    assert commit == COMMIT
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    assert found == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(hub.downloads()) == found
    assert hub.tokens == {f"Bearer {TOKEN}"}
    open_model(folder).load()


def test_selections_of_one_repository_are_folders_of_their_own(hub: HubServer) -> None:
    one, _ = fetch("someone/transcoders", "main", ["layer_0.safetensors"])
    all_, _ = fetch("someone/transcoders", "main", ["**/*.safetensors"])
    assert [path.name for path in one.iterdir()] == ["layer_0.safetensors"]
    assert len(list(all_.iterdir())) == 2


def test_patterns_are_of_folders_and_names(hub: HubServer, tmp_path: Path) -> None:
    for name in ("a.npz", "layer_0/b.npz", "layer_0/wide/c.npz", "layer_1/wide/c.npz"):
        path = tmp_path / "release" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"c")
    hub.repos["someone/release"] = tmp_path / "release"

    def chosen(pattern: str) -> list[str]:
        return [file.name for file in select("someone/release", COMMIT, [pattern])]

    assert chosen("*.npz") == ["a.npz"]
    assert chosen("**/*.npz") == ["a.npz", "layer_0/b.npz", "layer_0/wide/c.npz", "layer_1/wide/c.npz"]
    assert chosen("layer_*/wide/*") == ["layer_0/wide/c.npz", "layer_1/wide/c.npz"]
    with pytest.raises(ValueError, match=r"has no file like \*.pt; found a.npz"):
        chosen("*.pt")


def test_what_is_missing_shrinks_to_nothing(hub: HubServer) -> None:
    files = select("someone/model", COMMIT, MODEL_FILES)
    assert missing("someone/model", COMMIT, files) == files
    fetch("someone/model", COMMIT, ["*.json"])
    assert [file.name for file in missing("someone/model", COMMIT, files)] == ["model.safetensors"]
    fetch("someone/model", COMMIT, MODEL_FILES)
    assert missing("someone/model", COMMIT, files) == []


def test_the_header_of_a_file_tells_its_shapes(hub: HubServer) -> None:
    shapes = remote_shapes("someone/transcoders", COMMIT, "layer_0.safetensors")
    assert shapes["W_enc"] == shapes["W_dec"]
    assert hub.ranges == ["layer_0.safetensors: bytes=0-100000"]


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)
    hub.cuts["model.safetensors"] = [1000]
    folder, _ = fetch("someone/model", "main", MODEL_FILES)
    assert hub.ranges == ["model.safetensors: bytes=1000-"]
    assert (folder / "model.safetensors").read_bytes() == (
        hub.repos["someone/model"] / "model.safetensors"
    ).read_bytes()


def test_a_run_that_failed_goes_on_with_the_files_it_lacks(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub.cuts["model.safetensors"] = [1000, *[0] * 20]
    assert "no connection" in refused("someone/model")
    hub.cuts.clear()
    hub.requests.clear()
    fetch("someone/model", "main", MODEL_FILES)
    assert hub.downloads() == ["model.safetensors"]


def test_what_is_in_the_cache_needs_no_network(hub: HubServer) -> None:
    before = fetch("someone/model", "main", MODEL_FILES)
    hub.requests.clear()
    assert fetch("someone/model", COMMIT, MODEL_FILES) == before
    assert hub.requests == []
    hub.stop()
    assert resolve("someone/model", "main") == COMMIT
    assert fetch("someone/model", "main", MODEL_FILES) == before
    assert "no connection" in refused("someone/transcoders")
    assert "no connection" in refused("someone/model", OLDER)


def test_a_cache_of_an_older_library_needs_no_network(hub: HubServer) -> None:
    before = fetch("someone/model", "main", MODEL_FILES)
    shutil.rmtree(Path(constants.HF_HUB_CACHE) / "models--someone--model" / "trees")
    hub.stop()
    _tree_cache._IN_MEMORY_TREE_CACHE.clear()
    assert fetch("someone/model", "main", MODEL_FILES) == before


def test_a_gated_repository_says_what_to_do(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated.add("someone/model")
    expected = f"someone/model is gated: accept its licence at {hub.url}/someone/model, then set HF_TOKEN"
    assert expected in refused("someone/model")
    monkeypatch.delenv("HF_TOKEN")
    assert expected in refused("someone/model")


def test_what_does_not_exist_is_named(hub: HubServer) -> None:
    assert "no repository someone/else" in refused("someone/else")
    assert "someone/model has no revision 'v2'" in refused("someone/model", "v2")
    assert "someone/model has no revision" in refused("someone/model", OLDER)


def test_a_disk_too_small_is_refused_before_the_download(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr("storage.hub.shutil.disk_usage", lambda path: usage)
    assert "0.0 GB free" in refused("someone/model")
    assert hub.downloads() == []


def test_a_disk_that_fills_up_is_told(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("storage.hub.snapshot_download", full)
    assert "disk full while downloading" in refused("someone/model")
