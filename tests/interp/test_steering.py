"""Continuations with features changed, against the model run step by step with its MLP's output changed by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from interp.capture import Hooks
from interp.families import family_of
from interp.interventions import equal_prefixes
from interp.interventions.changes import Changes, FeatureChange, activations_of
from interp.interventions.equal_prefixes import EqualPrefixes
from interp.interventions.generating import Sampling, continuations, likelihoods
from interp.interventions.running import SteerableModel
from interp.transcoder import Transcoder
from tests.absent_device import NAME
from tests.tiny_models import D_MODEL, tiny_model

HOOKS = Hooks("mlp_in", "mlp_out")


def transcoder(activation: str) -> Transcoder:
    torch.manual_seed(1)
    W_enc, W_dec = torch.randn(7, D_MODEL), torch.randn(7, D_MODEL)
    threshold = torch.full((7,), 0.3) if activation == "jumprelu" else None
    k = 3 if activation == "topk" else None
    return Transcoder(W_enc, torch.randn(7), W_dec, torch.zeros(D_MODEL), activation, threshold, k)  # pyright: ignore


def by_hand(model, coder: Transcoder, changes: list[FeatureChange], prompt: list[int], n: int) -> list[int]:
    """Without keys and values kept, one continuation at a time."""
    handles = [_changed(model, coder, one) for one in changes]
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(n):
            tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    for handle in handles:
        handle.remove()
    return tokens[len(prompt) :]


def _changed(model, coder: Transcoder, one: FeatureChange):
    block = model.model.layers[one.layer] if hasattr(model, "model") else model.transformer.h[one.layer]

    def change(_module, args, output):
        x = args[0].float()
        a = coder.encode(x.flatten(0, 1))[:, one.feature].view(x.shape[:2])
        new = (a + one.add).clamp(one.low, one.high)
        new[:, : one.start] = a[:, : one.start]
        new[:, one.stop :] = a[:, one.stop :]
        return output + (new - a)[..., None] * coder.W_dec[one.feature]

    return block.mlp.register_forward_hook(change)


def steerable(name: str, activation: str) -> SteerableModel:
    model, coder = tiny_model(name), transcoder(activation)
    return SteerableModel(model, family_of(model.config.model_type), HOOKS, lambda _layer: coder)


def test_changed_features_change_what_is_written_as_by_hand() -> None:
    for name, activation in (("llama", "relu"), ("gpt2", "jumprelu"), ("llama", "topk")):
        of = steerable(name, activation)
        prompts = torch.tensor([[3, 5, 7], [11, 2, 9], [3, 5, 7], [3, 5, 7], [3, 5, 8]])
        rows = [
            [FeatureChange(0, 1, 0).held_at(0.0)],
            [FeatureChange(1, 1, 4).held_at(30.0), FeatureChange(1, 2, 3, add=2.0)],
            [FeatureChange(2, 1, 4).held_at(-30.0)._replace(start=2, stop=5)],
            [FeatureChange(3, 0, 6, low=1.0, high=2.0)],
            [],
        ]
        found = continuations(of, Changes([one for row in rows for one in row]), prompts, 5)
        for row, changes in enumerate(rows):
            expected = by_hand(of.model, of.transcoder(0), changes, prompts[row].tolist(), 5)
            assert found[row].tolist() == expected
        assert not of.model._forward_hooks


def test_draws_do_not_depend_on_the_batch_and_follow_the_seed() -> None:
    of = steerable("llama", "relu")
    prompts = torch.tensor([[3, 5, 7]] * 40)
    how = Sampling(temperature=1.0, seed=3)
    together = continuations(of, Changes(), prompts, 4, how)
    assert torch.equal(together[7:9], continuations(of, Changes(), prompts[7:9], 4, how._replace(rows=(7, 8))))
    assert not torch.equal(together, continuations(of, Changes(), prompts, 4, how._replace(seed=4)))
    assert len(together.unique(dim=0)) > 5
    likely = continuations(of, Changes(), prompts, 4, how._replace(top_p=1e-6))
    assert torch.equal(likely, continuations(of, Changes(), prompts, 4))


def test_writing_ends_where_every_row_has_ended() -> None:
    of = steerable("llama", "relu")
    prompts = torch.tensor([[3, 5, 7], [11, 2, 9]])
    whole = continuations(of, Changes(), prompts, 6)
    stop = [int(whole[0, 1]), int(whole[1, 1])]
    n = 1 + int(torch.isin(whole, torch.tensor(stop)).int().argmax(1).max())
    assert n < 6
    assert torch.equal(continuations(of, Changes(), prompts, 6, stop=stop), whole[:, :n])


def test_likelihoods_are_those_of_both_models() -> None:
    of = steerable("gpt2", "relu")
    texts = torch.tensor([[3, 5, 7, 1, 4], [3, 5, 7, 1, 4]])
    changes = Changes([FeatureChange(1, 1, 4).held_at(5.0)])
    found = likelihoods(of, changes, texts)
    expected = of.model(input_ids=texts).logits.softmax(-1)
    torch.testing.assert_close(found.plain[0], expected[0, torch.arange(4), texts[0, 1:]])
    torch.testing.assert_close(found.changed[0], found.plain[0])
    assert (found.kl[0] < 1e-6).all()
    assert (found.kl[1] > 1e-4).all()
    by_the_change = SteerableModel(
        of.model, of.family, HOOKS, lambda _: replace(transcoder("relu"), W_dec=torch.zeros(7, D_MODEL))
    )
    assert (likelihoods(by_the_change, changes, texts).kl < 1e-6).all()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_rows_with_equal_tokens_are_read_once_below_the_change(name: str) -> None:
    of = steerable(name, "relu")
    of.model.set_attn_implementation("eager")  # with a mask for each row of the batch
    prompts = torch.tensor([[3, 5, 7], [11, 2, 9]] * 6)
    changes = [FeatureChange(row, 2, row // 4).held_at((row // 2 % 2) * 40.0 - 20) for row in range(12)]
    read: list[list[int]] = [[], []]
    blocks = of.family.block_modules(of.model)
    for at, block in ((0, blocks[1]), (1, blocks[2])):
        norm = of.family.mlp_input(block)
        norm.register_forward_pre_hook(lambda _m, args, at=at: read[at].append(len(args[0])))
    together = continuations(of, Changes(changes), prompts, 6)
    assert read[0][0] == 2
    assert read[1] == [12] * 6
    assert len(together.unique(dim=0)) > 2
    assert read[0] == [2, *[len(torch.cat([prompts, together[:, :n]], 1).unique(dim=0)) for n in range(1, 6)]]
    for row, one in enumerate(changes):
        alone = continuations(of, Changes([one._replace(row=0)]), prompts[row : row + 1], 6)
        assert torch.equal(together[row], alone[0])


def test_rows_are_compared_on_the_host_only_where_the_device_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, unique, compared_on = torch.tensor([[3, 5], [1, 2], [3, 5]]), torch.unique, list[str]()

    def noted(rows: torch.Tensor, **options: Any) -> Any:
        compared_on.append(rows.device.type)
        return unique(rows, **options)

    monkeypatch.setattr(torch, "unique", noted)
    for finds in (equal_prefixes.FINDS_EQUAL_ROWS, (NAME,)):
        monkeypatch.setattr(equal_prefixes, "FINDS_EQUAL_ROWS", finds)
        found = EqualPrefixes([], 0).read(tokens.to(NAME), None)
        assert found.device.type == NAME
        assert found.tolist() == [[1, 2], [3, 5]]
    assert compared_on == ["cpu", NAME]
    monkeypatch.undo()
    assert "cuda" in equal_prefixes.FINDS_EQUAL_ROWS


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk"])
def test_activations_of_one_feature_are_those_of_all(activation: str) -> None:
    coder = transcoder(activation)
    x = torch.randn(4, 6, D_MODEL)
    if activation == "jumprelu":  # one token exactly at the threshold, where a feature is off
        coder = replace(coder, W_enc=torch.eye(7, D_MODEL), b_enc=torch.zeros(7))
        x[0, 0, 2] = 0.3
    feature = torch.tensor([2, 0, 5, 2])
    found = activations_of(coder, feature, x)
    expected = torch.stack([coder.encode(row)[:, one] for row, one in zip(x, feature.tolist(), strict=True)])
    torch.testing.assert_close(found, expected)
