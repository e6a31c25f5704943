"""Descriptions read as sequences."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from interp.capture import HookedModel, Hooks, capture
from interp.families import family_of
from interp.weightlens.authors import sequence_inputs

HOOKS = Hooks("mlp_in", "mlp_out")


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=30, n_positions=8, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("bos", [None, 3])
def test_padding_does_not_change_what_a_sequence_gives(model: GPT2LMHeadModel, bos: int | None) -> None:
    sequences = [[5], [7, 5, 9, 2, 11], [8, 8], [1, 2, 3, 4]]
    found = sequence_inputs(model, family_of("gpt2"), HOOKS, 1, sequences, bos)
    for sequence, x in zip(sequences, found, strict=True):
        head = [] if bos is None else [bos]
        hooked = HookedModel(model, family_of("gpt2"), HOOKS)
        alone = capture(hooked, torch.tensor([head + sequence]), [1])[1].x[0, len(head) :]
        torch.testing.assert_close(x, alone, rtol=1e-5, atol=1e-5)


def test_a_description_longer_than_the_context_is_refused(model: GPT2LMHeadModel) -> None:
    with pytest.raises(ValueError, match="9 tokens, which the model's context of 8"):
        sequence_inputs(model, family_of("gpt2"), HOOKS, 1, [list(range(9))], None)


def test_the_token_before_a_description_counts_towards_the_context(model: GPT2LMHeadModel) -> None:
    sequence_inputs(model, family_of("gpt2"), HOOKS, 1, [list(range(7))], 3)
    with pytest.raises(ValueError, match="9 tokens, which the model's context of 8"):
        sequence_inputs(model, family_of("gpt2"), HOOKS, 1, [list(range(8))], 3)
