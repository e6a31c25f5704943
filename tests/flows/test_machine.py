"""Which device a configuration gets, on machines that have other ones than this."""

import os

import pytest
import torch
from rich.console import Console

from configs.engine import EngineConfig
from configs.load import load_config
from flows.cli.run import print_streaming
from flows.costs.evaluate import evaluate_costs
from flows.costs.machines import MACHINES, on_machine, rates_of
from flows.costs.rates import Rates
from flows.costs.recorded import recorded_sizes
from flows.costs.sizes import sizes_of
from flows.costs.streaming import check_model_fits, streaming
from flows.inputs.checkpoint_plan import identify, open_inputs
from flows.inputs.machine import arithmetic, device, n_workers, visible_devices
from flows.running.engine import local_cluster
from tests.conftest import ROOT


def gpus(patch: pytest.MonkeyPatch, n: int) -> None:
    """Have PyTorch see so many GPUs."""
    patch.setattr(torch.cuda, "is_available", lambda: n > 0)
    patch.setattr(torch.cuda, "device_count", lambda: n)


@pytest.mark.parametrize(
    ("asked", "n_gpus", "expected"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda"), ("cpu", 2, "cpu"), ("cuda", 1, "cuda"), ("cuda:1", 2, "cuda:1")],
)
def test_the_device_that_is_asked_for(asked: str, n_gpus: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, n_gpus)
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
    gpus(monkeypatch, n_gpus)
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


def test_each_worker_of_several_gpus_sees_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 4)
    every = EngineConfig(runner="dask", devices="all")
    assert n_workers(every) == 4
    assert device(every) == "cuda"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7,GPU-8ab,9")
    assert visible_devices(every) == ["5", "7", "GPU-8ab", "9"]
    assert visible_devices(EngineConfig(runner="dask", devices=2)) == ["5", "7"]
    with pytest.raises(ValueError, match=r"engine.devices is 5; PyTorch sees 4 GPUs here"):
        n_workers(EngineConfig(runner="dask", devices=5))
    gpus(monkeypatch, 0)
    with pytest.raises(ValueError, match=r"engine.devices is all; PyTorch sees 0 GPUs here"):
        n_workers(every)


@pytest.mark.whole
@pytest.mark.parametrize(("devices", "expected"), [("all", ["3", "1"]), (None, [None, None])])
def test_a_local_cluster_of_a_worker_a_gpu(
    devices: str | None, expected: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, 2)
    engine = EngineConfig(runner="dask", devices=devices, workers=None if devices else 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if devices:
        monkeypatch.setattr("flows.running.engine.visible_devices", lambda _: expected)
    with local_cluster(engine) as cluster, cluster.get_client() as client:
        client.wait_for_workers(2, timeout=60)
        seen = client.run(os.getenv, "CUDA_VISIBLE_DEVICES")
    assert sorted(map(str, seen.values())) == sorted(map(str, expected))


def test_a_model_larger_than_the_gpu_is_streamed_and_refused_where_it_cannot_be(
    planted: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(ROOT / "configs" / "demo.yaml", [*planted, "engine.device=cuda"])
    plan = identify(open_inputs(config))
    gpus(monkeypatch, 1)
    sizes = sizes_of(plan)
    assert sizes.n_embeddings == 2
    sizes = sizes._replace(n_weights=1e9, n_layers=40, n_tokens=50_000, d_model=1000, bytes_in_files=2, n_embeddings=1)

    def gb(memory: float) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, int(memory * 1e9)))

    gb(7)
    assert streaming(sizes, config) is None
    check_model_fits(sizes, config, ["circuitlens"])
    gb(6)
    said = "layers are streamed from host memory: 4.0 GB model, 6.0 GB on cuda:0, of which weights may take 60%"
    assert streaming(sizes, config) == said
    print_streaming(sizes, config, Console())
    assert said in " ".join(capsys.readouterr().out.split())
    check_model_fits(sizes, config, ["activations", "evaluate"])
    with pytest.raises(
        ValueError, match=r"circuitlens needs the weights of all layers at once, 4.0 GB in float32, and"
    ):
        check_model_fits(sizes, config, ["activations", "circuitlens"])
    gb(0.9)  # 0.2 GB of embeddings or 0.4, and two layers of 0.1
    check_model_fits(sizes, config, [])
    with pytest.raises(ValueError, match=r"even layer by layer: embeddings and room for two layers .* 0.54 GB"):
        check_model_fits(sizes._replace(n_embeddings=2), config, [])
    gb(0.6)
    with pytest.raises(ValueError, match=r"does not fit on cuda:0, even layer by layer: embeddings and room for two"):
        check_model_fits(sizes, config, [])
    half = load_config(ROOT / "configs" / "demo.yaml", [*planted, "engine.device=cuda", "model.dtype=auto"])
    gb(4)
    assert streaming(sizes, half) is None
    assert streaming(sizes._replace(n_weights=1e10), half, "4090") == (
        "layers are streamed from host memory: 20.0 GB model, 24.0 GB on 4090, of which weights may take 60%"
    )
    assert streaming(sizes._replace(n_weights=1e10), half, "cpu-16") is None


def test_an_unembedding_of_its_own_is_multiplied_and_an_embedding_is_not() -> None:
    config = load_config(ROOT / "configs" / "pythia-160m.yaml", [])
    sizes = recorded_sizes(config)
    assert sizes is not None
    matrix = sizes.n_tokens * sizes.d_model
    assert sizes.block_flops == 2 * (sizes.n_weights - 2 * matrix)
    assert sizes.model_flops == 2 * (sizes.n_weights - matrix)
    tied = sizes._replace(n_embeddings=1)
    assert tied.block_flops == 2 * (sizes.n_weights - matrix)
    assert tied.model_flops == 2 * sizes.n_weights
