"""The catalog's record of runs: what stages took, and what the next plan makes of it."""

import socket
from pathlib import Path
from typing import Any

import pytest

from storage.catalog.database import insert_row, open_catalog
from storage.catalog.published import open_published
from storage.catalog.runs import corrections, now, recorded


def put(catalog: Path, number: int, actual_s: float, **other: Any) -> None:
    row = {
        "run_id": str(number), "stage": "describe", "status": "completed", "started_at": now(), "uncorrected_s": 10.0,
        "host": socket.gethostname(), "actual_s": actual_s, **other,
    }  # fmt: skip
    with open_catalog(catalog, write=True) as connection:
        insert_row(connection, "runs", row)


def test_a_stage_is_recorded_with_what_was_planned_and_what_it_took(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.duckdb"
    with recorded(catalog, {"run_id": "1", "stage": "ingest", "predicted_s": 3.0, "uncorrected_s": 2.0}):
        pass
    with open_published(catalog) as connection:
        [row] = connection.execute("SELECT predicted_s, uncorrected_s, actual_s, status FROM runs").fetchall()
    assert row[:2] == (3.0, 2.0)
    assert 0 <= row[2] < 60
    assert row[3] == "completed"


def test_the_median_of_the_latest_runs_on_this_machine_corrects_the_plan(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.duckdb"
    assert corrections(catalog) == {}
    for number, actual_s in enumerate((1000.0, 1000.0, 1000.0, 20.0, 30.0, 40.0, 50.0, 900.0)):
        put(catalog, number, actual_s)
    elsewhere = [{"host": "another"}, {"status": "failed"}, {"n_reused": 3}, {"uncorrected_s": 0.5}]
    for number, other in enumerate(elsewhere, 10):
        put(catalog, number, 7e6, **other)
    put(catalog, 20, 5.0, stage="evaluate")
    assert corrections(catalog) == {"describe": pytest.approx(4.0), "evaluate": pytest.approx(0.5)}
