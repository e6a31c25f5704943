"""Supernodes: planted groups are found, named and pass their test; random ones of the same size do not."""

import numpy as np
import pytest
import torch

from interp.circuitlens.graph import Ends, prune
from interp.circuitlens.supernodes import (
    Supernode,
    SupernodeSettings,
    distinct,
    effects_on_targets,
    supernodes,
    terms_of,
)
from interp.interventions.changes import Changes
from interp.interventions.groups import group_tests, keeping
from interp.interventions.measured import measured
from interp.interventions.readings import targets_of
from interp.interventions.validation import Ablated
from tests.interp.test_validation import BYSTANDERS, CAUSE, ablated
from tests.planted_circuits import HIDDEN, UPSTREAM, planted_coders, planted_gpt2, sequence

TWIN = 4
LABELS = {
    (0, CAUSE): "the token ‘Nine’; right after ‘six’",
    (0, TWIN): "‘nine’, ‘seven’",
    (1, UPSTREAM): "promotes ‘eleven’",
    **{(0, feature): f"the token ‘other{feature}’" for feature in BYSTANDERS},
}


@pytest.fixture(scope="module")
def twins() -> Ablated:
    """Token 9 fires 0/3 and 0/4, which together fire 1/2, which promotes token 11; others write there very little."""
    model, coders = planted_gpt2(), planted_coders()
    lower, upper = model.transformer.h[0].mlp, model.transformer.h[1].mlp
    lower.c_fc.weight[9, 1], lower.c_fc.bias[1], lower.c_proj.weight[1, HIDDEN] = 2, -6, 0.25
    coders[0].W_enc[TWIN], coders[0].b_enc[TWIN], coders[0].W_dec[TWIN] = (
        coders[0].W_enc[CAUSE],
        -6,
        coders[0].W_dec[CAUSE],
    )
    upper.c_fc.weight[HIDDEN, 0], upper.c_fc.bias[0], upper.c_proj.weight[0, 11] = 1, -0.5, 2
    coders[1].b_enc[UPSTREAM], coders[1].W_dec[UPSTREAM, 11] = -0.5, 2
    for at, feature in enumerate(BYSTANDERS):
        coders[0].b_enc[feature] = 5.0
        coders[0].W_dec[feature, HIDDEN] = 0.001 * (1 + at)
        coders[0].W_dec[feature, 20 + 7 * at] = 0.3
        coders[1].W_enc[feature, 20 + 7 * at], coders[1].W_dec[feature, 11] = 1.0, 0.01 * (-1) ** at
    of = ablated(model, coders)
    return of._replace(pruned=prune(of.graph, 1.0, 1.0))


def test_the_planted_group_is_found_and_named_by_what_its_descriptions_share(twins: Ablated) -> None:
    found = supernodes(twins.graph, twins.pruned, LABELS, SupernodeSettings())
    groups = {one.name: {twins.place(node) for node in one.nodes} for one in found}
    assert groups["nine"] == {(0, CAUSE, 9), (0, TWIN, 9)}
    assert not any((1, UPSTREAM, 9) in members for members in groups.values())
    unlike = supernodes(twins.graph, twins.pruned, LABELS, SupernodeSettings(similarity=0.999, of_descriptions=1.0))
    assert all(len({LABELS[twins.place(node)[:2]] for node in one.nodes}) == 1 for one in unlike)


def test_what_is_said_tells_apart_what_profiles_do_not(twins: Ablated) -> None:
    said = {**LABELS, (0, TWIN): "the token ‘four’"}
    found = supernodes(twins.graph, twins.pruned, said, SupernodeSettings(similarity=0.6))
    assert not any({(0, CAUSE), (0, TWIN)} <= {twins.place(node)[:2] for node in one.nodes} for one in found)


def test_the_planted_group_is_necessary_and_others_of_its_size_are_not(twins: Ablated) -> None:
    place = {twins.place(node): node for node in range(twins.graph.n_features)}
    group = Supernode("nine", (place[0, CAUSE, 9], place[0, TWIN, 9]), 1.0)
    others = Supernode("others", tuple(place[0, feature, 9] for feature in BYSTANDERS[:2]), 0.1)
    against = Supernode("against", (place[1, UPSTREAM, 9],), -1.0)
    found = group_tests(twins, [group, against, others], lambda _: torch.zeros(8), SupernodeSettings(draws=8))
    assert found is not None
    assert set(found.each) == {0, 2}
    planted, bystanders = found.each.values()
    assert planted.group.necessity > 0.8
    assert abs(bystanders.group.necessity) < 0.1
    assert planted.group.necessity > planted.random.necessity + 0.3
    assert planted.top.necessity > 0.8
    assert planted.effect.necessity > 0.8
    # What the pair writes goes through 1/2, which is held at its mean with all others: alone it suffices for nothing.
    assert planted.group.sufficiency == pytest.approx(found.nothing, abs=0.15)
    chain = Supernode("chain", (*group.nodes, place[1, UPSTREAM, 9]), 1.0)
    whole = group_tests(twins, [chain], lambda _: torch.zeros(8), SupernodeSettings(draws=1))
    assert whole is not None
    assert whole.each[0].group.sufficiency == pytest.approx(1, abs=0.15)
    assert whole.together is not None
    assert whole.together.group == whole.each[0].group


def test_holding_all_features_at_what_they_are_changes_nothing(twins: Ablated) -> None:
    tokens, readings = twins.rest.frozen.tokens, twins.readings
    before = measured(twins.steerable, tokens, Changes(), 2, readings).readings
    every = [twins.place(node) for node in range(twins.graph.n_features)]
    with keeping(twins.steerable, [every, []], lambda _: torch.zeros(8)):
        after = measured(twins.steerable, tokens, Changes(), 2, readings).readings
    torch.testing.assert_close(after[0], before[0])
    assert (after[1] - before[1]).abs().max() > 1


def test_the_planted_group_makes_up_the_difference_to_a_prompt_without_it(twins: Ablated) -> None:
    """On the other prompt nothing promotes token 11: the pair put there does, other features do not."""
    place = {twins.place(node): node for node in range(twins.graph.n_features)}
    group = Supernode("nine", (place[0, CAUSE, 9], place[0, TWIN, 9]), 1.0)
    others = Supernode("others", tuple(place[0, feature, 9] for feature in BYSTANDERS[:2]), 0.1)
    found = group_tests(twins, [group, others], sequence(8), SupernodeSettings(draws=8))
    assert found is not None
    assert found.counterfactual is not None
    assert found.target > found.counterfactual + 1
    assert found.nothing == 0
    planted, bystanders = found.each.values()
    assert planted.group.sufficiency > 0.8
    assert planted.random.sufficiency < planted.group.sufficiency - 0.3
    assert abs(bystanders.group.sufficiency) < 0.1
    assert group_tests(twins, [group], twins.rest.frozen.tokens, SupernodeSettings()) is None


def test_effects_are_what_all_paths_carry_with_their_sign(twins: Ablated) -> None:
    graph, n = twins.graph, twins.graph.n_features
    among = graph.edges[:n, :n].astype(np.float64) / graph.activation[:, None]
    expected = (graph.edges[n:, :n] @ np.linalg.inv(np.eye(n) - among))[0]
    found = effects_on_targets(graph)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert (found > 1).any()
    assert (found < 0).any()


def test_features_for_and_against_the_targets_are_in_groups_of_their_own(twins: Ablated) -> None:
    effect = effects_on_targets(twins.graph)
    found = supernodes(twins.graph, twins.pruned, LABELS, SupernodeSettings(similarity=-0.9))
    signs = [{bool(effect[node] > 0) for node in one.nodes} for one in found]
    assert len(found) == 2
    assert all(len(one) == 1 for one in signs)
    assert [one.effect for one in found] == pytest.approx([float(effect[list(one.nodes)].sum()) for one in found])
    strongest = supernodes(twins.graph, twins.pruned, LABELS, SupernodeSettings(nodes=3, similarity=-0.9))
    assert {node for one in strongest for node in one.nodes} <= set(np.argsort(-np.abs(effect))[:3].tolist())


def test_no_shares_of_a_target_that_is_zero(twins: Ablated) -> None:
    readings = [one._replace(direction=torch.zeros_like(one.direction)) for one in twins.readings]  # pyright: ignore
    graph = twins.graph._replace(
        ends=Ends(
            targets_of(twins.rest.linear, twins.rest.frozen, twins.rest.transcoder, readings), np.ones(1, np.float32)
        )
    )
    assert (
        group_tests(twins._replace(graph=graph, readings=readings), [], lambda _: torch.zeros(8), SupernodeSettings())
        is None
    )


def test_terms_are_what_a_description_quotes_or_its_words() -> None:
    assert terms_of("the tokens ‘-Em’, ‘’s’; right after ‘don’t’") == ["-em", "don’t", "’s"]
    assert terms_of("names of capital cities") == ["capital", "cities", "names"]
    assert distinct(["a", "b", "a", "a"]) == ["a", "b", "a (2)", "a (3)"]
