"""Interventions of a file: into the catalog once, and wrong lines named before anything is done."""

import json
from pathlib import Path
from unittest import mock

import pytest

from flows import intervene_batch
from flows.intervene_batch import read_interventions, run_batch
from storage.catalog.database import open_catalog
from tests.planted_store import planted_store


def write(file: Path, *lines: object) -> Path:
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return file


@pytest.mark.usefixtures("prefect_here")
def test_a_file_of_interventions_is_in_the_catalog_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = planted_store(tmp_path).store.root
    monkeypatch.setattr(intervene_batch, "LINES_A_TASK", 2)
    file = write(
        tmp_path / "some.jsonl",
        {"prompt": "word3 word5", "changes": ["0/3=off"], "targets": ["feature:1/2", "word9"]},
        {"prompt": "word4", "changes": ["1/2=4", "0.1=off"]},
        {"prompt": "word3 word5", "changes": ["0/7=off"], "targets": ["feature:1/2", "word9"]},
        {"prompt": "word3 word4", "changes": ["0/3=swap"], "targets": ["feature:1/2"], "swap_from": "word3 word5"},
    )
    batch = run_batch(root, None, file)
    with mock.patch.object(intervene_batch, "intervene", side_effect=AssertionError("computed again")):
        assert run_batch(root, "planted", file) == batch
    query = "SELECT number, intervention, target, measured FROM interventions ORDER BY number, target"
    with open_catalog(root / "catalog.duckdb") as connection:
        rows = connection.execute(query).fetchall()
        [(status,)] = connection.execute("SELECT status FROM runs WHERE stage = 'intervene'").fetchall()
    assert status == "completed"
    assert [row[0] for row in rows] == [0, 0, 1, 2, 2, 3]
    moved = {row[:3]: row[3] for row in rows}
    assert moved[0, "0/3=off", "feature 1/2 @2"] < -1
    assert moved[2, "0/7=off", "feature 1/2 @2"] == 0
    assert moved[3, "0/3=swap", "feature 1/2 @2"] > 1
    assert rows[2][1] == "1/2=4, 0.1=off"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"prompt": " ", "changes": ["0/3=off"]}, "line 1: the prompt is empty"),
        ({"prompt": "a", "changes": []}, "line 1: changes are empty"),
        ({"prompt": "a", "changes": ["0/3"]}, "line 1: feature '0/3': expected LAYER/FEATURE=VALUE"),
        ({"prompt": "a", "changes": "0/3=off"}, "expected a list of texts"),
        ({"prompt": 3, "changes": ["0/3=off"]}, "a prompt is 3; expected a text"),
        ({"prompt": "a", "change": ["0/3=off"]}, 'expected {"prompt"'),
        ([1], 'expected {"prompt"'),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: object, said: str) -> None:
    with pytest.raises(ValueError, match=r"some\.jsonl, line 1") as error:
        read_interventions(write(tmp_path / "some.jsonl", line))
    assert said in str(error.value)
    with pytest.raises(ValueError, match="holds no interventions"):
        read_interventions(write(tmp_path / "none.jsonl"))
