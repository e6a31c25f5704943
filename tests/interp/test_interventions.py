"""Interventions on random models of every family, and on one whose circuits are planted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.capture import HookedModel, Hooks, Place, read_inputs
from interp.circuitlens.attribution import contributions
from interp.circuitlens.frozen import freeze
from interp.circuitlens.graph import GraphSettings, attribution_steps, finished
from interp.circuitlens.linear import linear_model
from interp.families import family_of
from interp.interventions.at_rest import AtRest, at_rest, changed_readings
from interp.interventions.changes import Changes, FeatureChange, HeadChange
from interp.interventions.measured import head_outputs, measured
from interp.interventions.readings import FeatureReading, LogitReading, Reading, targets_of
from interp.interventions.running import SteerableModel, changing
from interp.transcoder import Transcoder
from tests.frozen_models import TOKENS, frozen_by_hooks, frozen_model, likeliest_ends, open_model, random_transcoders
from tests.planted_circuits import (
    BIGRAM,
    D_MODEL,
    D_TRANSCODER,
    D_VOCAB,
    EITHER,
    UPSTREAM,
    planted_coders,
    planted_gpt2,
    sequence,
)
from tests.tiny_models import CONFIGS

HOOKS = Hooks("mlp_in", "mlp_out")
KINDS = ["relu", "topk", "cross"]
SMALL = 1e-3
"""The part of an activation by which no other is switched off."""


def resting(name: str, coders: list[Transcoder], hooks: Hooks = HOOKS) -> AtRest:
    linear, frozen = frozen_model(name, hooks, coders)
    return at_rest(linear, frozen, coders.__getitem__)


def some_readings(rest: AtRest) -> list[Reading]:
    W_U = rest.linear.family.W_U(rest.linear.model).float()
    return [FeatureReading(1, 3, 6), FeatureReading(2, 5, 8), LogitReading(W_U[4], 8), LogitReading(W_U[4] - W_U[9], 5)]


def some_changes(rest: AtRest) -> Changes:
    """Rows of features set, moved, clamped and silenced, and of heads scaled and replaced, at some positions or all."""
    offset = torch.randn(rest.linear.attention[1].W_O.shape[1], generator=torch.Generator().manual_seed(5))
    active = rest.frozen.layers[0].active
    fires, where = int(active.feature[-1]), int(active.position[-1])
    return Changes(
        [
            FeatureChange(0, 0, fires).held_at(0.0),
            FeatureChange(1, 0, fires, add=3.0, start=where, stop=where + 1),
            FeatureChange(2, 1, 7).held_at(4.0)._replace(start=2, stop=5),
            FeatureChange(2, 0, 9, low=1.0, high=1.5),
            FeatureChange(4, 0, 2).held_at(2.0),
        ],
        [HeadChange(3, 1, 2, scale=0.3, offset=offset, start=1, stop=6), HeadChange(4, 0, 1)],
    )


@pytest.mark.parametrize(("name", "kind"), [*((name, "cross") for name in CONFIGS), ("llama", "skip")])
def test_with_frozen_mlps_a_silenced_feature_takes_its_contributions_away(name: str, kind: str) -> None:
    rest = resting(name, coders := random_transcoders(kind))
    targets = targets_of(rest.linear, rest.frozen, coders.__getitem__, some_readings(rest))
    (found,) = contributions(rest.linear, rest.frozen, targets, max_bytes=10**9)
    by_target = found.features[:, found.target.argsort()]
    begins = rest.frozen.first_active
    features = [
        (layer, int(at.active.feature[index]), int(at.active.position[index]), begins[layer] + index)
        for layer, at in enumerate(rest.frozen.layers)
        for index in range(0, len(at.active.feature), 37)
    ]
    changes = [
        FeatureChange(row, layer, feature).held_at(0.0)._replace(start=position, stop=position + 1)
        for row, (layer, feature, position, _) in enumerate(features)
    ]
    changed = changed_readings(rest, Changes(changes), len(changes), targets, "frozen")
    expected = -by_target[[index for *_, index in features]]
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(changed, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_through_features_it_takes_away_what_all_paths_of_the_graph_carry(name: str) -> None:
    rest = resting(name, coders := random_transcoders("skip"))
    found, ends = likeliest_ends(rest.linear, rest.frozen, 3)
    settings = GraphSettings(max_features=None)
    graph = finished(attribution_steps(rest.linear, rest.frozen, coders.__getitem__, ends, settings, max_bytes=10**8))
    n = graph.n_features
    among = graph.edges[:n, :n].astype(np.float64) / graph.activation[:, None]  # relative changes of features
    total = graph.edges[n:, :n] @ np.linalg.inv(np.eye(n) - among)
    W_U = rest.linear.family.W_U(rest.linear.model).float()
    readings = [LogitReading(W_U[token] - W_U.mean(0), len(TOKENS) - 1) for token in found.token.tolist()]
    targets = targets_of(rest.linear, rest.frozen, coders.__getitem__, readings)
    chosen = list(range(0, n, 29))
    changes = [
        FeatureChange(row, int(graph.layer[at]), int(graph.feature[at]), add=-SMALL * float(graph.activation[at]))
        ._replace(start=int(graph.position[at]), stop=int(graph.position[at]) + 1)
        for row, at in enumerate(chosen)
    ]  # fmt: skip
    changed = changed_readings(rest, Changes(changes), len(changes), targets, "features") / SMALL
    expected = torch.from_numpy(-total[:, chosen].T).float()
    torch.testing.assert_close(changed, expected, rtol=5e-3, atol=5e-3 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "skip") for name in CONFIGS), *(("gemma2", kind) for kind in KINDS)]
)
def test_with_mlps_computed_anew_as_the_model_itself_put_to_rest(name: str, kind: str) -> None:
    check_against_the_model_at_rest(name, kind, HOOKS)


def check_against_the_model_at_rest(name: str, kind: str, hooks: Hooks) -> None:
    rest = resting(name, coders := random_transcoders(kind), hooks)
    readings, changes = some_readings(rest), some_changes(rest)
    targets = targets_of(rest.linear, rest.frozen, coders.__getitem__, readings)
    changed = changed_readings(rest, changes, 5, targets, "model")
    slow = frozen_by_hooks(name, hooks, coders)
    for block in slow.family.block_modules(slow.model):
        del slow.family.module(block, slow.family.mlp).forward
    steerable = SteerableModel(slow.model, slow.family, hooks, coders.__getitem__)
    before = measured(steerable, TOKENS, Changes(), 1, readings).readings
    expected = measured(steerable, TOKENS, changes, 5, readings).readings - before
    assert (expected.abs().max(1).values > 0.05).all()
    torch.testing.assert_close(changed, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "hooks"),
    [
        ("gemma2", Hooks("resid_mid", "mlp_out_normed")),
        ("gemma3_text", Hooks("mlp_in", "mlp_out_normed")),
        ("gpt_neox", Hooks("resid_mid", "mlp_out")),
    ],
)
def test_so_it_is_with_other_hooks(name: str, hooks: Hooks) -> None:
    check_against_the_model_at_rest(name, "relu", hooks)


def test_measured_readings_are_those_of_the_model() -> None:
    coders = random_transcoders("relu")
    rest = resting("llama", coders)
    steerable = SteerableModel(open_model("llama"), family_of("llama"), HOOKS, coders.__getitem__)
    found = measured(steerable, TOKENS, Changes(), 2, some_readings(rest))
    logits = steerable.model(TOKENS[None]).logits[0].detach()
    torch.testing.assert_close(found.readings[:, 2], logits[8, 4].expand(2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.readings[0, 3], logits[5, 4] - logits[5, 9], rtol=1e-4, atol=1e-4)
    assert found.next_token.tolist() == [int(logits[8].argmax())] * 2
    torch.testing.assert_close(found.probability[0], logits[8].softmax(0).max())
    assert found.divergence_from(found).tolist() == [0, 0]


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
@pytest.mark.parametrize("place", ["resid_pre", "resid_post", "attn_out", "mlp_out"])
def test_an_autoencoders_feature_moves_the_place_that_it_reads(name: str, place: Place) -> None:
    coders, model, hooks = random_transcoders("relu"), open_model(name), Hooks(place, place)
    steerable = SteerableModel(model, family_of(name), hooks, coders.__getitem__)
    hooked, seen = HookedModel(model, family_of(name), hooks), []

    def read() -> None:
        read_inputs(hooked, TOKENS[None], [1], lambda _, x: seen.append(x[0]))

    read()
    with changing(steerable, Changes([FeatureChange(0, 1, 7).held_at(5.0)])):
        read()
    before, after = seen
    moved = (5.0 - coders[1].encode(before)[:, 7])[:, None] * coders[1].W_dec[7]
    torch.testing.assert_close(after, before + moved, rtol=1e-4, atol=1e-4)


def test_a_swapped_head_writes_what_it_mixed_on_the_other_prompt() -> None:
    coders = random_transcoders("relu")
    steerable = SteerableModel(open_model("llama"), family_of("llama"), HOOKS, coders.__getitem__)
    other = TOKENS.flip(0)
    theirs = head_outputs(steerable, other, [1])[1]
    every = [
        HeadChange(0, 1, head, offset=theirs[at, head], start=at, stop=at + 1)
        for head in range(4)
        for at in range(len(TOKENS))
    ]
    seen: list[torch.Tensor] = []
    module = steerable.model.get_submodule("model.layers.1.self_attn.o_proj")
    handle = module.register_forward_hook(lambda _m, _a, output: seen.append(output[0]))
    measured(steerable, TOKENS, Changes((), every), 1, [])
    measured(steerable, other, Changes(), 1, [])
    handle.remove()
    torch.testing.assert_close(seen[0], seen[1])


def planted_rest(*end: int) -> tuple[AtRest, SteerableModel]:
    model, coders = planted_gpt2(), planted_coders()
    linear = linear_model(model, family_of("gpt2"), HOOKS)
    rest = at_rest(linear, freeze(linear, coders.__getitem__, sequence(*end)), coders.__getitem__)
    return rest, SteerableModel(model, family_of("gpt2"), HOOKS, coders.__getitem__)


@pytest.mark.parametrize("threshold", [None, 0.1])
def test_features_on_the_way_are_switched_off_and_no_further(threshold: float | None) -> None:
    """0/3 takes more from 1/2 than it has: what 1/2 reads falls by all of it, what it writes goes and no more."""
    rest, _ = planted_rest(9)
    coders = [rest.transcoder(layer) for layer in range(2)]
    coders[1].W_dec[UPSTREAM, 11] = 2
    if threshold is not None:
        coders[1] = replace(coders[1], activation="jumprelu", threshold=torch.full((D_TRANSCODER,), threshold))
    rest = at_rest(rest.linear, freeze(rest.linear, coders.__getitem__, sequence(9)), coders.__getitem__)
    readings: list[Reading] = [FeatureReading(1, UPSTREAM, 9), LogitReading(torch.eye(D_VOCAB, D_MODEL)[11], 9)]
    targets = targets_of(rest.linear, rest.frozen, rest.transcoder, readings)
    off = [FeatureChange(row, layer, feature).held_at(0.0) for row, (layer, feature) in enumerate(((0, 3), (1, 2)))]
    direct = changed_readings(rest, Changes(off), 2, targets, "frozen")
    found = changed_readings(rest, Changes(off), 2, targets, "features")
    [activation] = rest.frozen.layers[1].active.activation[rest.frozen.layers[1].active.feature == UPSTREAM].tolist()
    assert found[0, 0] == direct[0, 0] < -1.5 * activation
    torch.testing.assert_close(found[0, 1], direct[0, 1] + direct[1, 1])
    assert direct[1, 1] < -1


def test_the_planted_head_moves_the_planted_feature_and_no_other_does() -> None:
    rest, steerable = planted_rest(2, 5)
    readings: list[Reading] = [FeatureReading(1, BIGRAM, 9)]
    heads = [(0, 0), (0, 1), (1, 0), (1, 1)]
    changes = Changes((), [HeadChange(row, layer, head) for row, (layer, head) in enumerate(heads)])
    targets = targets_of(rest.linear, rest.frozen, rest.transcoder, readings)
    predicted = changed_readings(rest, changes, 4, targets, "frozen")[:, 0]
    before = measured(steerable, rest.frozen.tokens, Changes(), 1, readings).readings
    found = (measured(steerable, rest.frozen.tokens, changes, 4, readings).readings - before)[:, 0]
    assert predicted[0] < -0.5
    assert found[0] < -0.5
    assert predicted[1:].abs().max() < 1e-4
    assert found[1:].abs().max() < 1e-3


def test_the_planted_feature_moves_what_reads_it_and_random_ones_do_not() -> None:
    rest, steerable = planted_rest(9)
    readings: list[Reading] = [FeatureReading(1, feature, 9) for feature in (UPSTREAM, EITHER, BIGRAM)]
    rows = [3, 0, 5, 6]
    changes = Changes([FeatureChange(row, 0, feature, add=1.0) for row, feature in enumerate(rows)])
    targets = targets_of(rest.linear, rest.frozen, rest.transcoder, readings)
    frozen = changed_readings(rest, changes, 4, targets, "frozen")
    before = measured(steerable, rest.frozen.tokens, Changes(), 1, readings).readings
    found = measured(steerable, rest.frozen.tokens, changes, 4, readings).readings - before
    assert (frozen[0, :2] > 0.5).all()
    assert frozen[0, 2].abs() < 0.05  # through the mean that LayerNorm subtracts
    assert (found[0, :2] > 0.5).all()
    assert frozen[1:].abs().max() < 1e-4
    assert found[1:].abs().max() < 1e-4
    # Nothing between this feature and its readers is anything but linear once norms rest: predicted is measured.
    for mlps in ("features", "model"):
        torch.testing.assert_close(changed_readings(rest, changes, 4, targets, mlps), frozen, rtol=1e-4, atol=1e-4)
