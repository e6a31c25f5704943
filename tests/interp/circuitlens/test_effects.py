"""What a feature does to the logits, against the model itself put to rest."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from interp.capture import Hooks, Place, on_place
from interp.circuitlens.effects import Activations, output_effects, strongest_effects
from tests.frozen_models import TOKENS, frozen_by_hooks, frozen_model, random_transcoders
from tests.tiny_models import D_MODEL, DIFFERENT

HOOKS = Hooks("mlp_in", "mlp_out")


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in DIFFERENT for kind in ("relu", "skip", "cross")])
def test_effects_are_the_changes_of_the_logits(name: str, kind: str) -> None:
    coders = random_transcoders(kind)
    linear, frozen = frozen_model(name, HOOKS, coders)
    n_after = 2
    active = Activations(
        torch.tensor([2, 0, 1, 0]), torch.tensor([3, 1, 4, 6]), torch.tensor([6, 2, 0, 5]), torch.tensor([1.0, 2, 3, 4])
    )
    W_U = linear.family.W_U(linear.model)
    found = output_effects(linear, frozen, coders.__getitem__, active, n_after) @ W_U.T

    slow = frozen_by_hooks(name, HOOKS, coders)
    slow.model.config.final_logit_softcapping = None
    with torch.no_grad():
        before = slow.model(TOKENS[None], use_cache=False).logits[0]
        for row, (layer, feature, position, a) in enumerate(zip(*(column.tolist() for column in active), strict=True)):
            slow.added = {layer: torch.zeros(1, len(TOKENS), D_MODEL)}
            slow.added[layer][0, position] = a * coders[layer].W_dec[feature]
            later = coders[layer].W_dec_later
            for at in range(0 if later is None else later.shape[1]):
                slow.added[layer + 1 + at] = torch.zeros(1, len(TOKENS), D_MODEL)
                slow.added[layer + 1 + at][0, position] = a * later[feature, at]  # pyright: ignore
            after = slow.model(TOKENS[None], use_cache=False).logits[0]
            change = (after - before)[position : position + n_after + 1]
            torch.testing.assert_close(found[row], change, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("place", ["resid_pre", "resid_post", "attn_out"])
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gpt_neox"])
def test_effects_of_autoencoders_features_start_at_their_place(name: str, place: Place) -> None:
    coders, hooks, n_after = random_transcoders("relu"), Hooks(place, place), 2
    linear, frozen = frozen_model(name, hooks, coders)
    active = Activations(
        torch.tensor([2, 0, 1]), torch.tensor([3, 1, 4]), torch.tensor([6, 2, 0]), torch.tensor([1.0, 2, 3])
    )
    found = output_effects(linear, frozen, coders.__getitem__, active, n_after) @ linear.family.W_U(linear.model).T
    slow = frozen_by_hooks(name, HOOKS, coders)
    slow.model.config.final_logit_softcapping = None
    blocks = linear.family.block_modules(slow.model)
    with torch.no_grad():
        before = slow.model(TOKENS[None], use_cache=False).logits[0]
        for row, (layer, feature, position, a) in enumerate(zip(*(column.tolist() for column in active), strict=True)):
            added = torch.zeros(1, len(TOKENS), D_MODEL)
            added[0, position] = a * coders[layer].W_dec[feature]
            handle = on_place(linear.family, blocks[layer], place, lambda x, added=added: x + added)
            after = slow.model(TOKENS[None], use_cache=False).logits[0]
            handle.remove()
            change = (after - before)[position : position + n_after + 1]
            torch.testing.assert_close(found[row], change, rtol=1e-3, atol=2e-3)


def test_tokens_beyond_the_sequence_are_refused() -> None:
    coders = random_transcoders("relu")
    linear, frozen = frozen_model("llama", HOOKS, coders)
    one = torch.tensor([0])
    with pytest.raises(ValueError, match="beyond the 9 tokens"):
        output_effects(linear, frozen, coders.__getitem__, Activations(one, one, one + 8, one.float()), 1)


def test_the_strongest_effects_are_those_of_the_whole_vocabulary() -> None:
    generator = torch.Generator().manual_seed(0)
    W_U = torch.randn(50, 8, generator=generator).repeat(2, 1)  # every token has an equal
    vectors = torch.randn(6, 8, generator=generator, dtype=torch.float64)

    def unembedding(step: int) -> Iterator[tuple[int, torch.Tensor]]:
        return ((start, W_U[start : start + step]) for start in range(0, len(W_U), step))

    effects = vectors @ W_U.double().T
    for k, step in ((3, 7), (50, 100), (1, 1)):
        found = strongest_effects(vectors, lambda step=step: unembedding(step), k)
        for vector in range(len(vectors)):
            mine = found.vector == vector
            order = np.argsort(-effects[vector].numpy(), kind="stable")
            lowest = np.argsort(effects[vector].numpy(), kind="stable")
            assert found.token[mine].tolist() == sorted({*order[:k].tolist(), *lowest[:k].tolist()})
            np.testing.assert_allclose(found.effect[mine], effects[vector][found.token[mine]], rtol=1e-12)
    assert len(strongest_effects(vectors[:0], lambda: unembedding(7), 3).token) == 0
    assert len(strongest_effects(vectors, lambda: unembedding(7), 0).token) == 0
