"""CircuitLens finds the circuits that were planted."""

import numpy as np
import pytest
import torch

from interp.capture import Hooks
from interp.circuitlens.attribution import contributions, feature_targets
from interp.circuitlens.causality import Drops, Firing, causal_drops
from interp.circuitlens.clusters import clustered
from interp.circuitlens.contributors import Contributors, significant
from interp.circuitlens.direct import direct_heads
from interp.circuitlens.effects import Activations, output_effects
from interp.circuitlens.frozen import Frozen, _writing_later, freeze
from interp.circuitlens.input_patterns import input_pattern, pattern_text
from interp.circuitlens.kinds import KINDS
from interp.circuitlens.linear import LinearModel, linear_model
from interp.circuitlens.settings import CircuitLensSettings
from interp.families.gpt2 import GPT2
from tests.planted_circuits import BIGRAM, EITHER, UPSTREAM, planted_coders, planted_gpt2, sequence

HOOKS, SETTINGS, CODERS = Hooks("mlp_in", "mlp_out"), CircuitLensSettings(), planted_coders()


@pytest.fixture(scope="module")
def linear() -> LinearModel:
    return linear_model(planted_gpt2(), GPT2, HOOKS)


def attributed(
    linear: LinearModel, feature: int, tokens: torch.Tensor, settings: CircuitLensSettings = SETTINGS
) -> tuple[Frozen, Contributors]:
    """What a layer-1 feature's activation at the last token came from."""
    frozen = freeze(linear, CODERS.__getitem__, tokens)
    last = torch.tensor([len(tokens) - 1])
    targets = feature_targets(linear, frozen, 1, CODERS[1], torch.tensor([feature]), last)
    active = frozen.layers[1].active
    assert feature in active.feature[active.position == last].tolist()
    jacobian = settings.heads == "jacobian"
    (found,) = contributions(linear, frozen, targets, max_bytes=10**9, heads=jacobian)
    heads = found.heads if found.heads is not None else direct_heads(linear, frozen, targets)
    return frozen, significant(frozen, found, heads, settings)


def strongest(found: Contributors, kind: str) -> tuple[int, int, int]:
    """(layer, unit, position)"""
    at = np.nonzero(found.kind == KINDS.index(kind))[0][0]
    return int(found.layer[at]), int(found.unit[at]), int(found.position[at])


@pytest.mark.parametrize("heads", ["direct", "jacobian"])
def test_a_previous_token_head(linear: LinearModel, heads: str) -> None:
    settings = CircuitLensSettings(heads=heads)  # pyright: ignore[reportArgumentType]
    _, found = attributed(linear, BIGRAM, sequence(2, 5), settings)
    assert strongest(found, "head") == (0, 0, 8)
    tokens = found.unit[found.kind == KINDS.index("token")]
    assert set(tokens[:2].tolist()) == {2, 5}


def test_an_upstream_feature(linear: LinearModel) -> None:
    _, found = attributed(linear, UPSTREAM, sequence(6, 9))
    assert strongest(found, "feature") == (0, 3, 9)


@pytest.mark.parametrize("clustering", ["ncut", "dbscan", "hdbscan"])
def test_two_causes_are_two_clusters_and_one_is_one(linear: LinearModel, clustering: str) -> None:
    settings = CircuitLensSettings(clustering=clustering)  # pyright: ignore[reportArgumentType]

    def clusters(feature: int, ends: list[tuple[int, ...]]) -> list[tuple[int, list[str]]]:
        parts = []
        for sample, end in enumerate(ends):
            _, found = attributed(linear, feature, sequence(*end, seed=sample))
            parts.append(found._replace(target=np.full(len(found.target), sample)))
        found = clustered(Contributors.joined(parts), np.full(len(ends), 9), settings, [0]).clusters
        assert all(one.stability == 1 for one in found)
        return [(one.n_samples, one.signature) for one in found]

    by_head, by_feature = [(4, 6)] * 12, [(7, 9)] * 8
    (n_first, first), (n_second, second) = clusters(EITHER, by_head + by_feature)
    assert (n_first, n_second) == (12, 8)
    assert first[0] == "L0 H0 −1"
    assert "L0 #3" in second
    assert "L0 #3" not in first
    ((n, only),) = clusters(EITHER, by_head)
    assert n == 12
    assert "L0 H0 −1" in only


def test_the_input_pattern_is_the_bigram(linear: LinearModel) -> None:
    _, found = attributed(linear, BIGRAM, sequence(2, 5))
    pattern = input_pattern(9, [KINDS[kind] for kind in found.kind], found.position, found.score)
    assert pattern == [8, 9]
    assert pattern_text(list("abcdefghij"), pattern) == "ij"
    assert pattern_text([" a", " b", " c", " d"], [0, 2, 3]) == "a … c d"


def test_output_effects_are_what_the_feature_promotes(linear: LinearModel) -> None:
    frozen = freeze(linear, CODERS.__getitem__, sequence(2, 5))
    at = torch.tensor([9])
    active = Activations(torch.tensor([1]), torch.tensor([BIGRAM]), at, torch.tensor([1.5]))
    effects = output_effects(linear, frozen, CODERS.__getitem__, active)[:, 0] @ linear.model.lm_head.weight.T
    assert int(effects.argmax()) == 11
    assert int(effects.argmin()) == 12


def test_of_a_layer_that_is_frozen_no_decoder_is_held_on_to() -> None:
    rest = _writing_later(CODERS[0])
    assert rest.W_dec.untyped_storage().nbytes() == rest.W_enc.untyped_storage().nbytes() == 0


def test_a_single_token(linear: LinearModel) -> None:
    frozen = freeze(linear, CODERS.__getitem__, torch.tensor([9]))
    targets = feature_targets(linear, frozen, 1, CODERS[1], torch.tensor([UPSTREAM]), torch.tensor([0]))
    (found,) = contributions(linear, frozen, targets, max_bytes=1)
    assert int(found.features.argmax()) == 0
    assert frozen.layers[0].active.feature.tolist() == [3]


def test_identical_samples_are_one_cluster(linear: LinearModel) -> None:
    _, found = attributed(linear, BIGRAM, sequence(2, 5))
    same = Contributors.joined([found._replace(target=np.full(len(found.target), sample)) for sample in range(100)])
    [one] = clustered(same, np.full(100, 9), SETTINGS, [0]).clusters
    assert (one.cluster, one.n_samples, one.stability) == (0, 100, 1.0)


def test_thousands_of_targets_in_one_sequence(linear: LinearModel) -> None:
    """In batches that hold to their memory, each target as if it were alone."""
    frozen = freeze(linear, CODERS.__getitem__, sequence(2, 5))
    position = torch.arange(10).repeat(500)
    feature = torch.arange(len(position)) % len(CODERS[1].b_enc)
    targets = feature_targets(linear, frozen, 1, CODERS[1], feature, position)
    seen, max_bytes = torch.zeros(len(targets), dtype=torch.int64), 2_000_000
    (alone,) = contributions(linear, frozen, targets.at(torch.tensor([4321])), max_bytes=max_bytes)
    for found in contributions(linear, frozen, targets, max_bytes=max_bytes):
        assert found.features.nbytes + found.errors.nbytes + found.tokens.nbytes < max_bytes
        seen[found.target] += 1
        for column in (found.target == 4321).nonzero()[:, 0].tolist():
            torch.testing.assert_close(found.features[:, column], alone.features[:, 0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found.total()[column], alone.total()[0], rtol=1e-4, atol=1e-5)
    assert (seen == 1).all()


def test_numbers_beyond_float32_are_refused() -> None:
    model = planted_gpt2()
    model.transformer.wte.weight[9] *= 1e38
    model.transformer.wpe.weight[0] *= 1e38
    with pytest.raises(ValueError, match="not finite"):
        freeze(linear_model(model, GPT2, HOOKS), CODERS.__getitem__, torch.tensor([9]))


def test_what_does_not_count_is_not_silenced(linear: LinearModel) -> None:
    """Neither as a source nor in its place: a source that does not count is not ablated, nor drawn at random."""
    tokens = sequence(2, 5)
    _, found = attributed(linear, BIGRAM, tokens)
    counted = np.arange(10) > 0

    def drops(counted: np.ndarray) -> Drops:
        firing = Firing(1, BIGRAM, tokens, counted)
        return causal_drops(linear, CODERS[1], firing, found, 1, np.random.default_rng(0))

    assert drops(counted).tokens > 0.5
    assert drops(counted).random_tokens == pytest.approx(0, abs=1e-3)
    without = drops(counted & (np.arange(10) != 8))
    assert not without.tokens > 0.1
    assert np.isnan(drops(np.arange(10) == 9).tokens)
