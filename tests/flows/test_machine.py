"""Which device a configuration gets, on machines that have other ones than this."""

import pytest
import torch

from configs.engine import EngineConfig
from flows.subject.machine import arithmetic, device


@pytest.mark.parametrize(
    ("asked", "n_gpus", "expected"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda"), ("cpu", 2, "cpu"), ("cuda", 1, "cuda"), ("cuda:1", 2, "cuda:1")],
)
def test_the_device_that_is_asked_for(asked: str, n_gpus: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    assert device(EngineConfig(device=asked)) == expected
    if expected != "cpu":
        assert not arithmetic(EngineConfig(device=asked)).screen


@pytest.mark.parametrize(
    ("asked", "n_gpus", "says"),
    [
        ("cuda", 0, "engine.device is cuda; PyTorch sees no GPU here"),
        ("cuda:2", 2, "engine.device is cuda:2; PyTorch sees 2 of them, cuda:0 to cuda:1, here"),
        ("mps", 1, "no GPU of Apple's"),
    ],
)
def test_a_device_that_is_not_there(asked: str, n_gpus: int, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=says):
        device(EngineConfig(device=asked))
