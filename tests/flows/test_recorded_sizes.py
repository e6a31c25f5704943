"""A plan of a preset needs no network: its sizes are recorded."""

import pytest

from configs.load import load_config
from flows.costs.plan import planned
from flows.costs.rates import Rates
from flows.costs.recorded import recorded_sizes
from flows.describe_checkpoint import stages
from storage.hub import UnreachableError
from tests.conftest import ROOT

HUB_PRESETS = ("gpt2", "gemma-2-2b", "llama-3.2-1b", "pythia-160m", "gemma-3-270m", "gemma-3-1b", "qwen3-0.6b")


@pytest.mark.parametrize("name", HUB_PRESETS)
def test_every_preset_on_the_hub_has_recorded_sizes(name: str) -> None:
    sizes = recorded_sizes(load_config(ROOT / "configs" / f"{name}.yaml", []))
    assert sizes is not None
    block = 4 * sizes.d_model**2  # attention alone: a model's weights are more than that and its embeddings
    assert sizes.n_weights > sizes.n_layers * block / 2 + sizes.n_tokens * sizes.d_model
    assert sizes.corpus_tokens > 0


def test_without_a_network_a_preset_is_planned_and_another_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object) -> str:
        raise UnreachableError("no network")

    monkeypatch.setattr("flows.inputs.origin.resolve", offline)
    monkeypatch.setattr("flows.costs.plan.Rates.measured", lambda *_: Rates(1e10, 1e10))
    config = load_config(ROOT / "configs" / "gpt2.yaml", [])
    found = planned(config, stages(config))
    assert found.from_records
    assert {step.name for step in found.steps} >= {"download", "project", "attribute"}
    other = load_config(ROOT / "configs" / "gpt2.yaml", ["model.repo=somebody/else"])
    with pytest.raises(UnreachableError):
        planned(other, stages(other))
