"""What Prefect's pages say of a checkpoint leads to the store and to the explorer."""

from pathlib import Path

import pytest

from flows.reports import prefect_pages
from storage.store import Store
from tests.explorer.small_catalog import CHECKPOINT, write_small_catalog


def test_artifacts_name_the_store_and_lead_to_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, str] = {}
    monkeypatch.setattr(
        prefect_pages, "create_markdown_artifact", lambda text, key, description: made.update({key: text})
    )
    monkeypatch.setenv("CIRCUIT_INSIGHTS_EXPLORER", "http://lab.example:9000/")
    write_small_catalog(tmp_path)
    prefect_pages.show_checkpoint(Store(tmp_path), CHECKPOINT, "small")
    assert set(made) >= {"small-layers", "small-best-features", "small-failures", "small-runs"}
    for text in made.values():
        assert tmp_path.name in text.replace("\\", "")
        assert f"(http://lab.example:9000/c/{CHECKPOINT})" in text
    assert f"| 0 | [2](http://lab.example:9000/c/{CHECKPOINT}/feature/0/2) |" in made["small-best-features"]


def test_without_a_name_the_explorer_is_where_serve_puts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CIRCUIT_INSIGHTS_EXPLORER", raising=False)
    assert prefect_pages.explorer_address() == "http://127.0.0.1:8765"
