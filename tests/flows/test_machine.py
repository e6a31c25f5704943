"""Which device a configuration gets, on machines that have other ones than this."""

import pytest
import torch

from configs.engine import EngineConfig
from configs.load import load_config
from flows.costs.evaluate import evaluate_costs
from flows.costs.machines import MACHINES, on_machine, rates_of
from flows.costs.rates import Rates
from flows.costs.recorded import recorded_sizes
from flows.subject.machine import arithmetic, device, n_workers
from tests.conftest import ROOT


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


def test_a_plan_for_another_machine_has_its_rates_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(*_: object) -> None:
        raise AssertionError("this machine was measured")

    monkeypatch.setattr(Rates, "measured", here)
    config = load_config(ROOT / "configs" / "gpt2.yaml", ["engine.device=cuda"])
    sizes = recorded_sizes(config)
    assert sizes is not None
    found = {}
    for name in MACHINES:
        planned = on_machine(config, name)
        assert n_workers(planned.engine) == MACHINES[name].workers
        found[name] = sum(one.seconds for one in evaluate_costs(sizes, planned, rates_of(name, 768, planned)).values())
    assert found["h100"] < found["a100"] < found["cpu-16"]
    assert n_workers(on_machine(load_config(ROOT / "configs" / "gpt2.yaml", ["engine.workers=3"]), "h100").engine) == 3
    with pytest.raises(ValueError, match=r"no machine 'v100' is known; known are h100, h200, a100, 4090, cpu-16"):
        rates_of("v100", 768, config)
