"""What a run is expected to cost, before anything is there: money for a language model, memory of all processes."""

from typing import Any

import pytest

from configs.run import EngineConfig, RunConfig
from flows.costs.rates import LIBRARIES_BYTES, Cost, Rates
from flows.costs.sizes import Sizes
from flows.describe import DESCRIBE
from flows.evaluate import EVALUATE
from flows.running.stage import Stage

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
