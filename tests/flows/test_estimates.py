"""What a run is expected to cost, before anything is there: money for a language model, memory of all processes."""

import dataclasses
from typing import Any

import pytest

from configs.engine import EngineConfig
from configs.run import RunConfig
from flows.costs.circuitlens import cheapest_mode, circuitlens_costs, sample_operations
from flows.costs.coactivation import coactivation_costs
from flows.costs.plan import Step
from flows.costs.rates import LIBRARIES_BYTES, Cost, Rates
from flows.costs.sizes import Heads, Sizes
from flows.describe import DESCRIBE
from flows.describe_checkpoint import STAGES
from flows.evaluate import EVALUATE
from flows.running.stage import Planned, Stage, planned_stages

GEMMA = Sizes(
    n_layers=26, d_model=2304, n_tokens=256_000, n_weights=2.6e9, d_transcoder=16_384, n_bytes=0, corpus_tokens=24e6
)
RATES = Rates(3e11, 3e11)


def usd(stage: Stage, **describing: Any) -> float:
    config = RunConfig.model_validate({
        "name": "g", "model": {"path": "."}, "transcoder": {"path": "."}, "corpus": {"source": "x"},
        "describe": {"explainer": "anthropic", **describing}, "evaluate": {"judge": "anthropic"},
        "anthropic": {"model": "m", "prices": {"input": 3, "output": 15, "cache_write": 3.75, "cache_read": 0.3}},
    })  # fmt: skip
    return sum(cost.usd for cost in stage.costs(GEMMA, config, RATES).values())


def test_describing_costs_what_is_described() -> None:
    every = usd(DESCRIBE)
    assert usd(DESCRIBE, features_per_layer=250) == pytest.approx(every * 250 / 16_384)
    assert usd(DESCRIBE, features_per_layer=10**6) == every
    assert usd(EVALUATE) == usd(EVALUATE, features_per_layer=250) > 0


def test_methods_of_circuits_ask_a_cluster_once_and_join_each() -> None:
    one, two = (usd(DESCRIBE, methods=names) for names in (["wl+cl"], ["wl+cl", "circuitlens-full"]))
    plain = usd(DESCRIBE, methods=["maxact"])
    assert one > 4 * plain
    assert plain / 10 < two - one < plain


def test_threads_share_what_a_process_holds_and_dask_workers_do_not() -> None:
    cost = Cost(n_tasks=10, seconds=0, disk_bytes=0, held_bytes=7e9, task_bytes=1e9)
    threads, dask = (EngineConfig.model_validate({"runner": name, "workers": 4}) for name in ("threads", "dask"))
    assert cost.memory_bytes(threads) == LIBRARIES_BYTES + 7e9 + 4 * 1e9
    assert cost.memory_bytes(dask) == 5 * LIBRARIES_BYTES + 4 * (7e9 + 1e9)
    assert cost._replace(n_tasks=1).memory_bytes(threads) == LIBRARIES_BYTES + 7e9 + 1e9


def test_a_slower_machine_takes_longer_at_what_is_no_product() -> None:
    config = RunConfig.model_validate({
        "name": "g", "model": {"path": "."}, "transcoder": {"path": "."}, "corpus": {"source": "x"},
    })  # fmt: skip
    endless = Rates(1e40, 1e40)
    for stage in STAGES.values():
        costs = [stage.costs(GEMMA, config, endless._replace(slowness=slowness)) for slowness in (1.0, 3.0)]
        plain, slow = (sum(cost.seconds for cost in one.values()) for one in costs)
        assert 2.9 * plain < slow <= 3 * plain * (1 + 1e-9)
        assert plain > 0


def test_layers_that_are_left_out_cost_nothing() -> None:
    def seconds(**transcoder: Any) -> dict[str, float]:
        config = RunConfig.model_validate({
            "name": "g", "model": {"path": "."}, "transcoder": {"path": ".", **transcoder}, "corpus": {"source": "x"},
            "coactivation": {"pairs": "edges"}, "circuitlens": {"features_per_layer": 1, "samples_per_feature": 12},
        })  # fmt: skip
        costs = circuitlens_costs(GEMMA, config, RATES) | coactivation_costs(GEMMA, config, RATES)
        return {name: cost.seconds for name, cost in costs.items()}

    every, some = seconds(), seconds(only_layers=[4, 12])
    assert some["attribute"] < every["attribute"] / 12  # a sample costs the same, its sequence has fewer encoders
    assert some["ablate"] == pytest.approx(every["ablate"] * 2 / 26)
    assert some["stability"] < every["stability"] / 100  # of one pair of layers in place of 325


def test_a_stage_is_expected_to_take_what_its_steps_take() -> None:
    steps = [
        Step(stage, "step", 1, 1, 2.0 * seconds, seconds, 0, 0) for stage, seconds in (("a", 1), ("b", 5), ("a", 3))
    ]
    assert planned_stages(steps) == {"a": Planned(8.0, 4.0), "b": Planned(10.0, 5.0)}


def test_modes_of_attribution_are_counted_and_the_cheapest_that_agrees_is_named() -> None:
    of_gemma = GEMMA._replace(heads=Heads(8, 2048, 1024))
    whole = sample_operations(of_gemma, 128, "float32")
    carried = 13 * 64 * (2 * 2304 * (2048 + 1024) + 2 * 128 / 3 * 2048)
    assert carried < whole < 1.1 * carried  # and what is read of features, errors and tokens
    assert sample_operations(of_gemma, 128, "bfloat16") == whole
    assert sample_operations(of_gemma, 128, "direct") < whole / 20
    assert [cheapest_mode(of_gemma, 128, at) for at in (0.5, 0.99, 1.0)] == ["direct", "bfloat16", "float32"]
    with pytest.raises(ValueError, match="--agreement is 2"):
        cheapest_mode(of_gemma, 128, 2)
    config = RunConfig.model_validate({
        "name": "g", "model": {"path": "."}, "transcoder": {"path": "."}, "corpus": {"source": "x"},
    })  # fmt: skip
    seconds = []
    for changes in ({}, {"precision": "bfloat16"}, {"sources": "direct"}):
        settings = dataclasses.replace(config.circuitlens, qk_samples=0, **changes)
        costs = circuitlens_costs(of_gemma, config.model_copy(update={"circuitlens": settings}), RATES)
        seconds.append(costs["attribute"].seconds)
    assert seconds[0] > seconds[1] > seconds[2]
