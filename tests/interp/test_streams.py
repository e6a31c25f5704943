"""Transcoder inputs in batches: the same whatever the batch, and where memory gives out."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from interp.activations.model_inputs import transcoder_inputs
from interp.batches import forget_sizes
from interp.capture import HookedModel, Hooks
from interp.families.gpt2 import GPT2
from tests.tiny_models import D_VOCAB, tiny_model

TOKENS = torch.arange(70).view(7, 10) % D_VOCAB
KEPT = torch.rand(7, 10, generator=torch.Generator().manual_seed(0)) > 0.3


@pytest.fixture(autouse=True)
def nothing_found_yet() -> Iterator[None]:
    yield
    forget_sizes()


def inputs(model: nn.Module, rows_per_batch: int) -> list[torch.Tensor]:
    return transcoder_inputs(HookedModel(model, GPT2, Hooks("mlp_in", "mlp_out")), 2, TOKENS, KEPT, rows_per_batch)


@pytest.mark.parametrize("most", [7, 3, 1])
@pytest.mark.parametrize("message", ["CUDA out of memory. Tried to allocate", "can't allocate memory"])
def test_a_batch_that_memory_does_not_hold_is_halved(most: int, message: str) -> None:
    model, sizes = tiny_model("gpt2"), []

    def refuse(_: nn.Module, args: tuple, kwargs: dict) -> None:
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > most:
            raise RuntimeError(message)

    expected = inputs(model, 7)
    model.register_forward_pre_hook(refuse, with_kwargs=True)
    for found, wanted in zip(inputs(model, 5), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert sum(n for n in sizes if n <= most) == len(TOKENS)


def test_a_single_row_that_does_not_fit_and_other_errors_are_told() -> None:
    model = tiny_model("gpt2")

    def fail(message: str) -> None:
        def hook(*_: object) -> None:
            raise RuntimeError(message)

        handle = model.register_forward_pre_hook(hook)
        with pytest.raises(RuntimeError, match=message):
            inputs(model, 4)
        handle.remove()

    fail("out of memory")
    fail("something else")
