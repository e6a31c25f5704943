"""Models larger than their device: the same numbers, within the room that there is."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from interp import streamed_layers
from interp.capture import HookedModel, Hooks, read_inputs
from interp.circuitlens.linear import linear_model
from interp.families import family_of
from interp.streamed_layers import StreamedLayers, is_streamed, layers_to_stream, weight_bytes
from tests.absent_device import NAME, LateCopies, bytes_there
from tests.tiny_models import CONFIGS, D_VOCAB, DIFFERENT, tiny_model

TOKENS = torch.arange(24).view(3, 8) % D_VOCAB


@pytest.fixture(autouse=True)
def _copies_are_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_layers, "copies_to", lambda _: LateCopies())


def streamed(model: nn.Module, name: str) -> nn.Module:
    """A copy of a model with three layers on the absent device, with room for two of them."""
    found = copy.deepcopy(model)
    blocks = family_of(CONFIGS[name].model_type).block_modules(found)
    layers, others = weight_bytes(blocks, found)
    chosen = layers_to_stream(layers, others, others + 2 * max(layers))
    assert chosen == (0, 1, 2)
    StreamedLayers(found, blocks, chosen, torch.device(NAME))
    return found


@pytest.mark.parametrize("name", DIFFERENT)
def test_every_family_gives_the_same_logits(name: str) -> None:
    model = tiny_model(name)
    there = streamed(model, name)
    with torch.no_grad():
        for _ in range(2):  # the second pass begins with what the first one had begun to copy
            found = there(input_ids=TOKENS.to(NAME), use_cache=False).logits.cpu()
            assert torch.allclose(found, model(input_ids=TOKENS, use_cache=False).logits, atol=1e-5)
    assert is_streamed(there)


def test_the_device_never_holds_more_than_its_room() -> None:
    model = tiny_model("llama", num_hidden_layers=8, intermediate_size=200)
    family, before = family_of("llama"), bytes_there()
    blocks = family.block_modules(model)
    layers, others = weight_bytes(blocks, model)
    room = others + 5 * layers[0]
    chosen = layers_to_stream(layers, others, room)
    assert len(chosen) == 5  # three stay, and two slots
    tokens = TOKENS[:1, :1].to(NAME)
    StreamedLayers(model, blocks, chosen, torch.device(NAME))
    held: list[int] = []
    for block in blocks:
        block.mlp.register_forward_pre_hook(lambda *_: held.append(bytes_there() - before))
    with torch.no_grad():
        model(input_ids=tokens, use_cache=False)
    activations = layers[0] // 2
    assert len(held) == 8
    assert room - activations < max(held) < room + activations


def test_a_pass_that_ends_early_and_one_that_continues() -> None:
    model, family = tiny_model("gpt2"), family_of("gpt2")
    there = streamed(model, "gpt2")
    found: dict[tuple[str, int], torch.Tensor] = {}
    for name, one, device in (("there", there, NAME), ("here", model, "cpu")):
        hooked = HookedModel(one, family, Hooks("mlp_in", "mlp_out"))
        for layers in ([0], [0, 1, 2], [1]):
            read_inputs(hooked, TOKENS.to(device), layers, lambda at, x, name=name: found.update({(name, at): x.cpu()}))
    for layer in range(3):
        assert torch.allclose(found["there", layer], found["here", layer], atol=1e-5)
    with torch.no_grad():
        past = there(input_ids=TOKENS[:, :5].to(NAME), use_cache=True).past_key_values
        rest = there(input_ids=TOKENS[:, 5:].to(NAME), past_key_values=past, use_cache=True).logits.cpu()
        assert torch.allclose(rest, model(input_ids=TOKENS).logits[:, 5:], atol=1e-5)


def test_passes_of_several_threads_do_not_meet() -> None:
    model = tiny_model("llama")
    there = streamed(model, "llama")

    def logits(at: int) -> torch.Tensor:
        with torch.no_grad():
            return there(input_ids=TOKENS[at % 3 :].to(NAME), use_cache=False).logits.cpu()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(logits, range(12)))
    with torch.no_grad():
        expected = [model(input_ids=TOKENS[at:], use_cache=False).logits for at in range(3)]
    assert all(torch.allclose(one, expected[at % 3], atol=1e-5) for at, one in enumerate(found))


def test_what_needs_all_weights_at_once_is_refused() -> None:
    there = streamed(tiny_model("llama"), "llama")
    with pytest.raises(ValueError, match="weights of all layers at once"):
        linear_model(there, family_of("llama"), Hooks("mlp_in", "mlp_out"))


def test_which_layers_are_streamed() -> None:
    assert layers_to_stream([10] * 6, 5, 65) == ()
    assert layers_to_stream([10] * 6, 5, 64) == (1, 3, 5)
    assert layers_to_stream([10] * 6, 5, 25) == (0, 1, 2, 3, 4, 5)
    with pytest.raises(ValueError, match=r"room for two layers take 0.00 GB; weights may take 0.00 GB"):
        layers_to_stream([10] * 6, 5, 24)
