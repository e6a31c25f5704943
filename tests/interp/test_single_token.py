"""Single tokens in batches behind one BOS, against the plain forward of `[BOS, token]`, on every family."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from interp.capture import Hooks, capture
from interp.families import family_of
from interp.transcoder import Encoder
from interp.weightlens import single_token
from interp.weightlens.single_token import active_features, single_token_inputs
from tests.tiny_models import CONFIGS, D_MODEL, D_VOCAB, N_LAYERS, tiny_model

INPUT_HOOKS = ("resid_mid", "mlp_in_normalized", "mlp_in")


def plain(model: Any, name: str, hooks: Hooks, tokens: range, bos: int | None) -> torch.Tensor:
    """The obvious way: every sequence whole."""
    ids = torch.tensor([[token] if bos is None else [bos, token] for token in tokens])
    streams = capture(model, family_of(CONFIGS[name].model_type), ids, range(N_LAYERS), hooks)
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


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "qwen2", "qwen3"])
def test_a_window_just_wide_enough_for_bos(name: str) -> None:
    model, hooks, tokens = tiny_model(name, sliding_window=2), Hooks("mlp_in", "mlp_out"), range(8)
    found = single_token_inputs(model, family_of(CONFIGS[name].model_type), hooks, N_LAYERS, tokens, 7)
    torch.testing.assert_close(found, plain(model, name, hooks, tokens, 7), rtol=1e-4, atol=1e-5)


def test_a_window_too_narrow_for_bos_is_refused() -> None:
    model, hooks = tiny_model("gemma2", sliding_window=1), Hooks("mlp_in", "mlp_out")
    with pytest.raises(ValueError, match="sliding_window is 1"):
        single_token_inputs(model, family_of("gemma2"), hooks, N_LAYERS, range(8), 7)


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk"])
def test_active_features_are_those_of_the_whole_encoder(activation: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x, W_enc = (torch.randn(n, D_MODEL, generator=generator) for n in (700, 37))
    b_enc, threshold = torch.randn(37, generator=generator), torch.rand(37, generator=generator)
    whole = Encoder(W_enc, b_enc, activation, threshold if activation == "jumprelu" else None, 5)
    width = 37 if activation == "topk" else 10

    def pieces() -> Iterator[tuple[int, Encoder]]:
        for start in range(0, 37, width):
            rows = slice(start, start + width)
            cut = None if whole.threshold is None else threshold[rows]
            yield start, Encoder(W_enc[rows], b_enc[rows], activation, cut, 5)

    found = active_features(x, 1000, pieces())
    dense = np.zeros((700, 37), np.float32)
    dense[found.token - 1000, found.feature] = found.value
    np.testing.assert_allclose(dense, whole.encode(x).numpy(), rtol=1e-5, atol=1e-6)
    assert (found.value > 0).all()
    assert len(found.value) == (dense > 0).sum()
