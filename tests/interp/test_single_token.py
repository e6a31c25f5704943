"""Single tokens in batches behind one BOS, against the plain forward of `[BOS, token]`, on every family."""

from typing import Any

import pytest
import torch

from interp.batches import forget_sizes
from interp.capture import HookedModel, Hooks, capture
from interp.families import family_of
from interp.weightlens import single_token
from interp.weightlens.single_token import single_token_inputs
from tests.tiny_models import CONFIGS, D_VOCAB, N_LAYERS, tiny_model

INPUT_HOOKS = ("resid_mid", "mlp_in_normalized", "mlp_in")


def plain(model: Any, name: str, hooks: Hooks, tokens: range, bos: int | None) -> torch.Tensor:
    """The obvious way: every sequence whole."""
    ids = torch.tensor([[token] if bos is None else [bos, token] for token in tokens])
    streams = capture(HookedModel(model, family_of(CONFIGS[name].model_type), hooks), ids, range(N_LAYERS))
    return torch.stack([streams[layer].x[:, -1] for layer in range(N_LAYERS)])


@pytest.mark.parametrize("bos", [None, 7])
@pytest.mark.parametrize("name", CONFIGS)
def test_inputs_are_those_of_the_plain_forward(name: str, bos: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_token, "TOKENS_PER_FORWARD", 16)  # divides nothing
    model, tokens = tiny_model(name), range(3, D_VOCAB)
    for input_hook in INPUT_HOOKS:
        hooks = Hooks(input_hook, "mlp_out")
        found = single_token_inputs(model, family_of(CONFIGS[name].model_type), hooks, N_LAYERS, tokens, bos)
        torch.testing.assert_close(found, plain(model, name, hooks, tokens, bos), rtol=1e-4, atol=1e-5)


def test_tokens_without_room_are_read_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    model, hooks, tokens, sizes = tiny_model("llama"), Hooks("mlp_in", "mlp_out"), range(3, 13), list[int]()
    expected, read = plain(model, "llama", hooks, tokens, 7), single_token.read_inputs

    def small(hooked: HookedModel, ids: torch.Tensor, *rest: Any) -> None:
        sizes.append(len(ids))
        if len(ids) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        read(hooked, ids, *rest)

    monkeypatch.setattr(single_token, "read_inputs", small)
    found = single_token_inputs(model, family_of("llama"), hooks, N_LAYERS, tokens, 7)
    forget_sizes()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert sizes == [10, 5, 5]


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "qwen2", "qwen3"])
def test_a_window_just_wide_enough_for_bos(name: str) -> None:
    model, hooks, tokens = tiny_model(name, sliding_window=2), Hooks("mlp_in", "mlp_out"), range(8)
    found = single_token_inputs(model, family_of(CONFIGS[name].model_type), hooks, N_LAYERS, tokens, 7)
    torch.testing.assert_close(found, plain(model, name, hooks, tokens, 7), rtol=1e-4, atol=1e-5)


def test_a_window_too_narrow_for_bos_is_refused() -> None:
    model, hooks = tiny_model("gemma2", sliding_window=1), Hooks("mlp_in", "mlp_out")
    with pytest.raises(ValueError, match="sliding_window is 1"):
        single_token_inputs(model, family_of("gemma2"), hooks, N_LAYERS, range(8), 7)
