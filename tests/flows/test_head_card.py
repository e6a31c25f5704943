"""`show-head` prints what a head does, and says which heads there are where one does nothing."""

from pathlib import Path

import pytest
from rich.console import Console

from flows.reports.head_card import head_card
from tests.explorer.small_catalog import CHECKPOINT, write_small_catalog


def shown(catalog: Path, layer: int, head: int) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        for part in head_card(catalog, layer, head, CHECKPOINT):
            console.print(part)
    return capture.get()


def test_a_head_shows_features_places_and_reasons(tmp_path: Path) -> None:
    write_small_catalog(tmp_path)
    said = shown(tmp_path / "catalog.duckdb", 1, 2)
    assert "layer 1  head 2" in said
    assert "L2 #1" in said
    assert "6 (100%)" in said
    assert "transcoder errors" in said
    assert "-1" in said


def test_a_head_that_brings_nothing_is_answered_with_those_that_do(tmp_path: Path) -> None:
    write_small_catalog(tmp_path)
    with pytest.raises(
        ValueError, match=r"head 0\.3 contributes to no attributed activation.*layers 0-1, numbered 0-2"
    ):
        shown(tmp_path / "catalog.duckdb", 0, 3)
