"""Attribution on random models of every family: complete, and equal to brute force."""

from dataclasses import replace

import pytest
import torch

from interp.batches import forget_sizes
from interp.capture import HookedModel, Hooks, Place, capture
from interp.circuitlens import attribution, direct
from interp.circuitlens.attribution import (
    BUFFERS,
    Beginning,
    Targets,
    batches,
    contributions,
    feature_targets,
    logit_targets,
    read_until,
)
from interp.circuitlens.direct import direct_contributions, direct_heads
from interp.circuitlens.frozen import Frozen, freeze
from interp.circuitlens.linear import LinearModel, rounded
from interp.families import family_of
from tests.absent_device import NAME
from tests.frozen_models import TOKENS, frozen_by_hooks, frozen_model, open_model, random_transcoders
from tests.tiny_models import CONFIGS, D_MODEL, DIFFERENT, N_LAYERS

HOOKS = [Hooks("mlp_in", "mlp_out"), Hooks("mlp_in_normalized", "mlp_out"), Hooks("resid_mid", "mlp_out")]
KINDS = ["relu", "jumprelu", "topk", "skip", "cross"]


def all_pairs(n_features: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Some features at every token."""
    position = torch.arange(len(TOKENS)).repeat_interleave(n_features)
    return torch.arange(n_features).repeat(len(TOKENS)), position


def cases() -> list[tuple[str, str, Hooks]]:
    every_kind = [(name, kind, HOOKS[0]) for name in DIFFERENT for kind in KINDS]
    every_hook = [(name, "skip", hooks) for name in DIFFERENT for hooks in HOOKS[1:]]
    behind = [(name, "skip", Hooks("mlp_in", "mlp_out_normed")) for name in DIFFERENT if "gemma" in name]
    return every_kind + every_hook + behind


@pytest.mark.parametrize(("name", "kind", "hooks"), cases())
def test_contributions_sum_to_what_the_model_computes(name: str, kind: str, hooks: Hooks) -> None:
    coders = random_transcoders(kind)
    linear, frozen = frozen_model(name, hooks, coders)
    hooked = HookedModel(open_model(name), family_of(CONFIGS[name].model_type), hooks)
    streams = capture(hooked, TOKENS[None], range(N_LAYERS))
    feature, position = all_pairs()
    for layer in range(N_LAYERS):
        targets = feature_targets(linear, frozen, layer, coders[layer], feature, position)
        pre = streams[layer].x[0, position] * coders[layer].W_enc[feature]
        pre = pre.sum(1) + coders[layer].b_enc[feature]
        n_attributed = 0
        for found in contributions(linear, frozen, targets, max_bytes=40_000, heads=True):
            n_attributed += len(found.target)
            expected = pre[found.target]
            scale = found.features.abs().sum(0) + found.errors.abs().sum((0, 1)) + found.tokens.abs().sum(0)
            assert ((found.total() - expected).abs() / scale.maximum(expected.abs())).max() < 1e-5
            torch.testing.assert_close(found.total(), expected, rtol=1e-4, atol=1e-3)
        assert n_attributed == len(feature)


@pytest.mark.parametrize("place", ["resid_pre", "resid_post", "attn_out"])
@pytest.mark.parametrize("name", DIFFERENT)
def test_contributions_to_autoencoders_features_too(name: str, place: Place) -> None:
    """Tokens and whole MLPs sum to what the model computes, and what is said of an MLP is what goes without it."""
    hooks, coders = Hooks(place, place), random_transcoders("jumprelu")
    linear, frozen = frozen_model(name, hooks, coders)
    model, family = open_model(name), family_of(CONFIGS[name].model_type)
    streams = capture(HookedModel(model, family, hooks), TOKENS[None], range(N_LAYERS))
    written = capture(HookedModel(model, family, Hooks("mlp_in", "mlp_out")), TOKENS[None], range(N_LAYERS))
    slow = frozen_by_hooks(name, Hooks("mlp_in", "mlp_out"), coders)
    feature, position = all_pairs(2)
    for layer in range(N_LAYERS):
        targets = feature_targets(linear, frozen, layer, coders[layer], feature, position)
        pre = (streams[layer].x[0, position] * coders[layer].W_enc[feature]).sum(1) + coders[layer].b_enc[feature]
        (found,) = contributions(linear, frozen, targets, max_bytes=10**9)
        torch.testing.assert_close(found.total(), pre[found.target], rtol=1e-4, atol=2e-3)
        assert found.features.shape[0] == 0
        n_below = layer + 1 if place == "resid_post" else layer
        assert not found.errors[n_below:].any()
        for below in range(n_below):
            without = torch.zeros(1, len(TOKENS), D_MODEL)
            without[0, 4] = -written[below].y[0, 4]
            slow.added = {}
            whole = capture(HookedModel(slow.model, family, hooks), TOKENS[None], [layer])[layer].x
            slow.added = {below: without}
            rest = capture(HookedModel(slow.model, family, hooks), TOKENS[None], [layer])[layer].x
            drop = ((whole - rest)[0, position] * coders[layer].W_enc[feature]).sum(1)
            torch.testing.assert_close(found.errors[below, 4], drop[found.target], rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_heads_that_an_autoencoders_feature_reads_directly_are_those_beneath_it(name: str) -> None:
    coders, W = random_transcoders("relu"), torch.randn(1, D_MODEL)
    for place, n_read in (("resid_pre", 1), ("resid_post", 2), ("attn_out", 2)):
        linear, frozen = frozen_model(name, Hooks(place, place), coders)
        coder = replace(coders[1], W_enc=W, b_enc=torch.zeros(1), W_dec=W)
        targets = feature_targets(linear, frozen, 1, coder, torch.tensor([0]), torch.tensor([6]))
        scores = direct_heads(linear, frozen, targets)
        assert scores[n_read:].abs().max() == 0
        if place == "attn_out":
            assert scores[0].abs().max() == 0
            whole = capture(HookedModel(open_model(name), linear.family, linear.hooks), TOKENS[None], [1])[1].x[0, 6]
            by_heads = whole - linear.attention[1].output_bias
            torch.testing.assert_close(scores.sum()[None], W @ by_heads, rtol=1e-4, atol=1e-4)
        else:
            assert (scores[:n_read].abs().amax((1, 2, 3)) > 0).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_too(name: str) -> None:
    linear, frozen = frozen_model(name, HOOKS[0], coders := random_transcoders("jumprelu"))
    model = open_model(name, **({"final_logit_softcapping": None} if "gemma" in name else {}))
    logits = model(TOKENS[None]).logits[0].detach() - (0 if model.lm_head.bias is None else model.lm_head.bias)
    W_U = linear.family.W_U(linear.model).float()
    targets = logit_targets(linear, frozen, W_U[:7], torch.full((7,), 8))
    (found,) = contributions(linear, frozen, targets, max_bytes=10**9)
    torch.testing.assert_close(found.total()[found.target.argsort()], logits[8, :7], rtol=1e-4, atol=1e-3)
    assert len(coders) == N_LAYERS


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in DIFFERENT for kind in ("relu", "skip", "cross")])
def test_equal_to_the_model_itself_put_to_rest(name: str, kind: str) -> None:
    """One target at a time, by automatic differentiation and by finite differences."""
    coders = random_transcoders(kind)
    linear, frozen = frozen_model(name, HOOKS[0], coders)
    slow = frozen_by_hooks(name, HOOKS[0], coders)
    layer, feature, position = 2, 3, 7
    targets = feature_targets(linear, frozen, layer, coders[layer], torch.tensor([feature]), torch.tensor([position]))
    (found,) = contributions(linear, frozen, targets, max_bytes=10**9)

    slow.embedded.requires_grad_()
    slow.added = {at: torch.zeros(1, len(TOKENS), D_MODEL, requires_grad=True) for at in range(layer)}
    pre = slow.read(layer)[position] @ coders[layer].W_enc[feature]
    gradients = torch.autograd.grad(pre, [slow.embedded, *slow.added.values()])
    expected = (gradients[0][0] * frozen.embedding).sum(1)
    torch.testing.assert_close(found.tokens[:, 0], expected[: position + 1], rtol=1e-3, atol=1e-3)
    begins = frozen.first_active
    for source in range(layer):
        active = frozen.layers[source].active
        share = torch.zeros(len(active.feature))
        for at in range(source, layer):
            W = coders[source].W_dec if at == source else coders[source].W_dec_later
            if W is None or (at > source and W.ndim != 3):
                continue
            rows = W[active.feature] if at == source else W[active.feature, at - source - 1]
            share += (rows * gradients[1 + at][0, active.position]).sum(1)
        expected = share * active.activation
        torch.testing.assert_close(
            found.features[begins[source] : begins[source + 1], 0], expected, rtol=1e-3, atol=1e-3
        )

    slow.embedded = slow.embedded.detach()
    slow.added = {}
    with torch.no_grad():
        before = slow.read(layer)[position] @ coders[layer].W_enc[feature]
        at = int(found.features[: begins[1], 0].abs().argmax())
        index, source = frozen.layers[0].active.feature[at], frozen.layers[0].active.position[at]
        written = torch.zeros(1, len(TOKENS), D_MODEL)
        written[0, source] = frozen.layers[0].active.activation[at] * coders[0].W_dec[index]
        slow.added = {0: -written}
        if coders[0].W_dec_later is not None:
            later = torch.zeros(1, len(TOKENS), D_MODEL)
            later[0, source] = frozen.layers[0].active.activation[at] * coders[0].W_dec_later[index, 0]
            slow.added[1] = -later
        drop = before - slow.read(layer)[position] @ coders[layer].W_enc[feature]
    torch.testing.assert_close(found.features[at, 0], drop, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "kind"), [("gpt2", "topk"), ("gemma2", "cross"), ("gpt_neox", "skip")])
def test_tokens_that_nobody_reads_need_not_be_told_apart(name: str, kind: str) -> None:
    linear, frozen = frozen_model(name, HOOKS[0], coders := random_transcoders(kind))
    layer, feature, position = torch.tensor([2, 1, 1]), torch.tensor([3, 5, 1]), torch.tensor([4, 7, 0])
    until = read_until(layer.numpy(), position.numpy(), N_LAYERS)
    assert until == [8, 5, 0]
    short = freeze(linear, coders.__getitem__, TOKENS, until)
    assert [len(at.active.first) for at in short.layers] == [1 + len(TOKENS)] * N_LAYERS
    assert short.n_active < frozen.n_active
    for at, here, there in zip(layer.tolist(), feature, position, strict=True):
        totals = []
        for one in (frozen, short):
            targets = feature_targets(linear, one, at, coders[at], here[None], there[None])
            (found,) = contributions(linear, one, targets, max_bytes=10**9, heads=True)
            totals.append((found.total(), found.features.abs().sum(), found.heads))
        torch.testing.assert_close(totals[0], totals[1])


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "gemma2", "qwen2"])
def test_one_at_a_time_gives_the_same(name: str) -> None:
    linear, frozen = frozen_model(name, HOOKS[0], coders := random_transcoders("jumprelu"))
    feature, position = all_pairs(3)
    targets = [feature_targets(linear, frozen, layer, coders[layer], feature, position) for layer in range(N_LAYERS)]
    together = Targets(*(torch.cat(columns) for columns in zip(*targets, strict=True)))
    n = 0
    for found in contributions(linear, frozen, together, max_bytes=60_000, heads=True):
        for column, which in enumerate(found.target.tolist()):
            (alone,) = contributions(linear, frozen, together.at(torch.tensor([which])), max_bytes=1, heads=True)
            n_pos = alone.tokens.shape[0]
            torch.testing.assert_close(found.features[:, column], alone.features[:, 0], rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(found.errors[:, :n_pos, column], alone.errors[..., 0], rtol=1e-3, atol=1e-4)
            assert found.heads is not None
            assert alone.heads is not None
            torch.testing.assert_close(found.heads[:, :, :n_pos, column], alone.heads[..., 0], rtol=1e-3, atol=1e-4)
            assert not found.tokens[n_pos:, column].any()
            n += 1
    assert n == len(together)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "gemma2", "qwen2"])
def test_bfloat16_changes_the_gradients_that_attention_carries_and_no_others(name: str) -> None:
    linear, frozen = frozen_model(name, HOOKS[0], coders := random_transcoders("jumprelu"))
    feature, position = all_pairs(3)
    layer = N_LAYERS - 1
    targets = feature_targets(linear, frozen, layer, coders[layer], feature, position)
    (exact,) = contributions(linear, frozen, targets, max_bytes=10**9, heads=True)
    (found,) = contributions(rounded(linear), frozen, targets, max_bytes=10**9, heads=True)
    assert found.features.dtype == torch.float32
    scale = exact.features.abs().max(0).values
    apart = (found.features - exact.features).abs().max(0).values / scale
    assert 0 < apart.max() < 0.02
    below = slice(frozen.first_active[layer - 1], frozen.first_active[layer])
    if linear.parallel:  # nothing but the residual stream lies between the topmost two layers
        torch.testing.assert_close(found.features[below], exact.features[below], rtol=0, atol=0)
    assert found.heads is not None
    assert exact.heads is not None
    assert (found.heads - exact.heads).abs().max() < 0.02 * exact.heads.abs().max()


def test_targets_are_attributed_together_up_to_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    linear, frozen = frozen_model("gpt2", HOOKS[0], random_transcoders("relu"))
    d_model, n = frozen.embedding.shape[1], 7
    targets = Targets(torch.zeros(n, dtype=torch.long), torch.full((n,), 4), torch.zeros(n, d_model), torch.zeros(n))
    each = 4 * (BUFFERS * 5 * d_model + frozen.n_active + (linear.n_layers + 1) * 5)
    assert [len(batch) for batch in batches(linear, frozen, targets, 3 * each)] == [3, 3, 1]
    monkeypatch.setattr(attribution, "GRADIENT_NUMBERS", 2 * 5 * d_model)
    assert [len(batch) for batch in batches(linear, frozen, targets, 3 * each)] == [2, 2, 2, 1]
    there = Targets(*(column.to(NAME) for column in targets))  # has no cache for which batches would be too large
    assert [len(batch) for batch in batches(linear, frozen, there, 3 * each)] == [3, 3, 1]
    monkeypatch.undo()
    with_heads = each + 4 * linear.n_layers * linear.n_heads * 5
    assert [len(batch) for batch in batches(linear, frozen, targets, 3 * with_heads, heads=True)] == [3, 3, 1]


@pytest.mark.parametrize("sources", ["whole", "direct"])
def test_batches_without_room_are_halved(sources: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the targets, too, is attributed in as many at once as there was room for."""
    coders = random_transcoders("skip")
    linear, frozen = frozen_model("llama", HOOKS[0], coders)
    targets = feature_targets(linear, frozen, 2, coders[2], *all_pairs(2))
    run, module = (contributions, attribution) if sources == "whole" else (direct_contributions, direct)
    d_model = frozen.embedding.shape[1]
    room = (
        4 * len(targets) * (BUFFERS * frozen.n_pos * d_model + frozen.n_active + (linear.n_layers + 1) * frozen.n_pos)
    )
    (expected,) = run(linear, frozen, targets, max_bytes=room)
    begin, n_swept = attribution.begin, list[int]()

    def small(linear: LinearModel, frozen: Frozen, some: Targets, which: torch.Tensor, heads: bool) -> Beginning:
        n_swept.append(len(some))
        if len(some) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return begin(linear, frozen, some, which, heads)

    monkeypatch.setattr(module, "begin", small)
    forget_sizes()
    found = torch.zeros_like(expected.features)
    for part in run(linear, frozen, targets, max_bytes=room):
        found[:, part.target] = part.features
    torch.testing.assert_close(found[:, expected.target], expected.features)
    assert n_swept[:2] == [len(targets), -(-len(targets) // 2)]
    assert max(n_swept[4:]) <= 5
    n_swept.clear()
    list(run(linear, frozen, targets, max_bytes=room))
    assert max(n_swept) <= 5
    forget_sizes()
    few = targets.at(torch.arange(6))  # they say nothing of a full batch
    list(run(linear, frozen, few, max_bytes=room))
    n_swept.clear()
    list(run(linear, frozen, few, max_bytes=room))
    assert n_swept == [6, 3, 3]
    forget_sizes()
