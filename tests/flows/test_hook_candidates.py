"""The hooks at which a release was trained are found by measuring, whatever the configuration says."""

import pytest

from configs.load import load_config
from flows.hook_candidates import HookCandidate, HookCandidates, measure_candidates
from flows.inputs.checkpoint_plan import identify, open_inputs
from interp.capture import Hooks
from interp.quality import Quality
from tests.conftest import ROOT


@pytest.mark.whole
@pytest.mark.parametrize("said", ["mlp_in", "mlp_in_normalized"])
def test_the_right_reading_explains_most(said: str) -> None:
    changes = ["corpus.source=python-docs", f"transcoder.input_hook={said}", "quality_tokens=256"]
    found = measure_candidates(identify(open_inputs(load_config(ROOT / "configs" / "demo.yaml", changes))))
    inputs = [reading.hooks.feature_input for reading in found.every]
    assert inputs == ["mlp_in", "mlp_in_normalized", "resid_mid"]
    assert [layer.layer for layer in found.every[0].layers] == [0, 2, 3]
    assert found.is_right == (said == "mlp_in")
    if said == "mlp_in":
        assert found.advice is None
    else:
        assert str(found.advice).endswith("set transcoder.input_hook=mlp_in")


def reading(hooks: Hooks, *variances: float) -> HookCandidate:
    return HookCandidate(
        hooks,
        tuple(
            Quality(at, one, l0=9.0, dead_share=0.0, loss=3.0, loss_replaced=3.0, loss_all_replaced=None, n_tokens=100)
            for at, one in enumerate(variances)
        ),
    )


def test_what_to_set_names_only_what_differs() -> None:
    best, used = Hooks("mlp_in", "mlp_out_normed"), Hooks("mlp_in", "mlp_out")
    found = HookCandidates((reading(best, 0.9, 0.8), reading(used, 0.9, 0.7)), used)
    assert str(found.advice).endswith("with other hooks: set transcoder.output_hook=mlp_out_normed")
    near = HookCandidates((reading(best, 0.9, 0.8), reading(used, 0.89, 0.79)), used)
    assert near.advice is None
