"""Graphs, interventions and steering of one prompt on a device other than the CPU: the results are the CPU's."""

from collections.abc import Callable

import pytest
import torch

from flows.inputs.checkpoint_plan import CheckpointPlan
from flows.one_prompt import graphs
from flows.one_prompt.asked import asked_feature, asked_head
from flows.one_prompt.graphs import Asked, Wanted, attribution
from flows.one_prompt.intervene import Question, intervene
from flows.one_prompt.opened import Opened
from flows.one_prompt.steer import Generation, generate, steer
from interp.circuitlens.graph import GraphSettings
from interp.circuitlens.loadings import LoadingSettings
from interp.circuitlens.supernodes import SupernodeSettings
from interp.interventions.validation import ValidationSettings
from storage.checkpoints import open_checkpoint
from tasks.loaded_models import loaded_model
from tests.absent_device import NAME
from tests.tasks.demo_store import ingested

pytestmark = pytest.mark.whole

PROMPT, OTHER = "The cat sat on the", "The dog ran to the"


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> CheckpointPlan:
    return ingested(tmp_path_factory.mktemp("store"), "corpus.max_tokens=800", "corpus.n_pos=32", "quality_tokens=200")


def compare(plan: CheckpointPlan, there: str, run: Callable[[Opened], object]) -> None:
    """Both devices' results, number by number."""
    found = []
    for device in (there, "cpu"):
        folder, model = loaded_model(plan.inputs.model.path, device, open_attention=True)
        checkpoint = open_checkpoint(plan.store, plan.checkpoint_id)
        found.append(list(leaves(run(Opened(plan.store, checkpoint, folder, model, device)))))
    ours, theirs = found
    assert len(ours) == len(theirs) > 5
    for one, other in zip(ours, theirs, strict=True):
        assert type(one) is type(other)
        assert one == (pytest.approx(other, rel=2e-2, abs=2e-3) if isinstance(one, float) else other)


def leaves(value: object):
    """The numbers and texts in nested results, in order."""
    if isinstance(value, dict):
        for one in value.values():
            yield from leaves(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from leaves(one)
    else:
        yield value


@pytest.mark.parametrize("there", [NAME, pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("counterfactual", [OTHER, None])
def test_a_graph_and_its_tests(
    plan: CheckpointPlan, there: str, counterfactual: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "labels", lambda *_: {})
    shape = plan.attributes.n_layers, plan.attributes.d_transcoder
    monkeypatch.setattr(graphs, "mean_activations", lambda opened: torch.full(shape, 0.01).to(opened.device))
    wanted = Wanted(
        GraphSettings(max_features=40, max_logits=2),
        ValidationSettings(nodes=3, edges=4, draws=1),
        SupernodeSettings(nodes=12, tested=2, draws=1, similarity=0.05),
        LoadingSettings(edges=3),
    )

    def graph(opened: Opened) -> object:
        file, shares = attribution(opened, Asked(PROMPT, counterfactual=counterfactual), wanted)
        return sorted(shares.values()), file["links"], file["metadata"].get("validation")

    compare(plan, there, graph)


@pytest.mark.parametrize("there", [NAME, pytest.param("cuda", marks=pytest.mark.gpu)])
def test_interventions(plan: CheckpointPlan, there: str) -> None:
    asked = [
        [asked_feature("1/5=3"), asked_feature("2/7@-1=add:1")],
        [asked_feature("1/9=swap"), asked_head("2.1=mean")],
        [asked_head("1.0@2:4=off"), asked_head("3.2=swap")],
    ]
    compare(plan, there, lambda opened: list(intervene(opened, Question(PROMPT, swap_from=OTHER), asked)))


@pytest.mark.parametrize("there", [NAME, pytest.param("cuda", marks=pytest.mark.gpu)])
def test_steering(plan: CheckpointPlan, there: str) -> None:
    asked, how = [asked_feature("2/7=4")], Generation(new_tokens=4, temperature=0.7, top_p=0.9)
    compare(plan, there, lambda opened: [steer(opened, [PROMPT, "The"], asked, how), generate(opened, [PROMPT], asked)])
