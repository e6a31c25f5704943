"""Continuations with a feature held, against the model run step by step with its MLP's output changed by hand."""

import torch

from interp.capture import Hooks
from interp.fade.steering import SteeredFeature, continuations
from interp.families import family_of
from interp.transcoder import Transcoder
from tests.tiny_models import D_MODEL, tiny_model

HOOKS = Hooks("mlp_in", "mlp_out")


def transcoder(activation: str) -> Transcoder:
    torch.manual_seed(1)
    W_enc, W_dec = torch.randn(7, D_MODEL), torch.randn(7, D_MODEL)
    threshold = torch.full((7,), 0.3) if activation == "jumprelu" else None
    k = 3 if activation == "topk" else None
    return Transcoder(W_enc, torch.randn(7), W_dec, torch.zeros(D_MODEL), activation, threshold, k)  # pyright: ignore


def by_hand(model, layer: int, coder: Transcoder, feature: int, value: float, prompt: list[int], n: int) -> list[int]:
    """Without keys and values kept, one continuation at a time."""

    def change(_module, args, output):
        x = args[0].float()
        a = coder.encode(x.flatten(0, 1))[:, feature].view(x.shape[:2])
        return output + (value - a)[..., None] * coder.W_dec[feature]

    block = model.model.layers[layer] if hasattr(model, "model") else model.transformer.h[layer]
    handle = block.mlp.register_forward_hook(change)
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(n):
            tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    handle.remove()
    return tokens[len(prompt) :]


def test_held_features_change_what_is_written_as_by_hand() -> None:
    for name, activation in (("llama", "relu"), ("gpt2", "jumprelu"), ("llama", "topk")):
        model, coder = tiny_model(name), transcoder(activation)
        prompts = torch.tensor([[3, 5, 7], [11, 2, 9], [3, 5, 7], [3, 5, 7]])
        held = SteeredFeature(torch.tensor([0, 4, 4, 6]), torch.tensor([0.0, 30.0, -30.0, 5.0]))
        found = continuations(model, family_of(model.config.model_type), HOOKS, 1, coder, held, prompts, 5)
        for row in range(4):
            feature, value = int(held.feature[row]), float(held.value[row])
            assert found[row].tolist() == by_hand(model, 1, coder, feature, value, prompts[row].tolist(), 5)
        assert not model._forward_hooks
