"""Batch sizes found on a GPU are there for later runs, for the same models and GPUs alone."""

import os
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from tasks.batch_sizes import KeptSizes, sizes_for


def test_sizes_are_kept_by_gpu_and_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRCUIT_INSIGHTS_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1, 80))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H100")
    model = nn.Linear(3, 4)
    found = sizes_for(model, "cuda:0")
    assert dict(found) == {}
    found["rows on cuda:0"] = 512
    found["texts on cuda:0"] = 64
    del found["texts on cuda:0"]
    assert dict(sizes_for(nn.Linear(3, 4), "cuda:0")) == {"rows on cuda:0": 512}
    assert len(sizes_for(nn.Linear(3, 5), "cuda:0")) == len(sizes_for(model.half(), "cuda:0")) == 0
    assert sizes_for(nn.Linear(3, 4), "cpu") == {}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A100")
    assert dict(sizes_for(nn.Linear(3, 4), "cuda:0")) == {}


def test_a_damaged_file_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "sizes.json"
    KeptSizes(path)["rows"] = 5
    path.write_text(path.read_text().replace("5", "6"))
    again = KeptSizes(path)
    assert dict(again) == {}
    again["rows"] = 7
    assert dict(KeptSizes(path)) == {"rows": 7}


def test_old_sizes_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "sizes.json"
    KeptSizes(path)["rows"] = 1
    assert dict(KeptSizes(path)) == {"rows": 1}
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(path, (two_days_ago, two_days_ago))
    assert dict(KeptSizes(path)) == {}


def test_sizes_that_cannot_be_kept_hold_for_the_process() -> None:
    sizes = KeptSizes(Path("/proc/no-such-folder/sizes.json"))
    sizes["rows"] = 5
    assert dict(sizes) == {"rows": 5}
