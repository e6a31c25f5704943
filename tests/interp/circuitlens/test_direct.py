"""Direct contributions on random models of every family: the paper's formula, one head at a time."""

import pytest
import torch

from interp.circuitlens.attribution import Contributions, Targets, contributions, feature_targets
from interp.circuitlens.direct import direct_contributions, direct_heads
from interp.circuitlens.frozen import Frozen
from interp.circuitlens.linear import LinearModel
from interp.circuitlens.settings import CircuitLensSettings
from tests.frozen_models import frozen_model, random_transcoders
from tests.interp.circuitlens.test_attribution import HOOKS
from tests.tiny_models import DIFFERENT, N_LAYERS


def targets_of(linear: LinearModel, frozen: Frozen, kind: str) -> Targets:
    """Two features of every layer, at different tokens."""
    coders, feature, position = random_transcoders(kind), torch.tensor([1, 4]), torch.tensor([8, 5])
    each = [feature_targets(linear, frozen, at, coders[at], feature, position) for at in range(N_LAYERS)]
    return Targets(*(torch.cat(columns) for columns in zip(*each, strict=True)))


def by_formula(linear: LinearModel, frozen: Frozen, target: Targets) -> torch.Tensor:
    """What every active feature brings, one way of writing after another and head after head."""
    layer, t, direction = int(target.layer), int(target.position), target.direction[0]
    found: list[torch.Tensor] = []
    for source, at in enumerate(frozen.layers):
        share, position = torch.zeros(len(at.active.feature)), at.active.position
        for writing in range(source, layer):
            below = len(frozen.layers[writing].written) - 1 - (writing - source)
            if below < 0:
                continue  # a transcoder of one layer writes to its own alone
            written = frozen.layers[writing].written[below].at(slice(None))
            share += (written @ direction) * (position == t)
            for between in range(writing + 1, layer + (not linear.parallel)):
                weights, pattern = linear.attention[between], frozen.layers[between].pattern
                for head, W_O in enumerate(weights.W_O):
                    W_V = weights.W_V[head // (linear.n_heads // len(weights.W_V))]
                    share += pattern[head, t, position] * (written @ W_V.T @ W_O @ direction)
        found.append(share)
    return torch.cat(found)


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in DIFFERENT for kind in ("relu", "cross")])
def test_what_comes_through_one_head_at_most(name: str, kind: str) -> None:
    linear, frozen = frozen_model(name, HOOKS[0], random_transcoders(kind))
    targets, n = targets_of(linear, frozen, kind), 0
    for found in direct_contributions(linear, frozen, targets, max_bytes=40_000):
        for column, which in enumerate(found.target.tolist()):
            expected = by_formula(linear, frozen, targets.at(torch.tensor([which])))
            torch.testing.assert_close(found.features[:, column], expected, rtol=1e-4, atol=1e-4)
            n += 1
    assert n == len(targets)


def every_source(found: Contributions) -> list[torch.Tensor]:
    return [found.features, found.errors, found.tokens, found.bias]


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "gemma2", "qwen2"])
def test_all_there_is_where_one_layer_of_heads_lies_between(name: str) -> None:
    linear, frozen = frozen_model(name, HOOKS[0], coders := random_transcoders("jumprelu"))
    layer = 1 if linear.parallel else 0
    targets = feature_targets(linear, frozen, layer, coders[layer], torch.tensor([1, 4]), torch.tensor([8, 5]))
    (whole,) = contributions(linear, frozen, targets, max_bytes=10**9, heads=True)
    (direct,) = direct_contributions(linear, frozen, targets, max_bytes=10**9)
    torch.testing.assert_close(every_source(direct), every_source(whole), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(direct_heads(linear, frozen, targets.at(direct.target)), whole.heads)
    higher = targets_of(linear, frozen, "jumprelu")
    (whole,) = contributions(linear, frozen, higher, max_bytes=10**9)
    (direct,) = direct_contributions(linear, frozen, higher, max_bytes=10**9)
    assert (direct.total() - whole.total()).abs().max() > 1e-2  # paths through two heads are missing


def test_heads_of_a_sweep_need_one() -> None:
    with pytest.raises(ValueError, match=r"heads: jacobian .* set heads: direct, or sources: jacobian"):
        CircuitLensSettings(sources="direct", heads="jacobian")
