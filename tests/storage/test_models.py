"""Model folders of every family, as transformers writes them and as releases have them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizerFast

from storage.models import ModelFolder, open_model
from tests.tiny_models import CONFIGS, D_MODEL, D_VOCAB, N_LAYERS, tiny_model

TOKENS = torch.arange(10)[None]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_comes_back_as_it_was_saved(name: str, tied: bool, tmp_path: Path) -> None:
    model = tiny_model(name, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    folder = open_model(tmp_path)
    assert folder.family.model_type == CONFIGS[name].model_type
    assert (folder.n_layers, folder.d_model, folder.d_vocab) == (N_LAYERS, D_MODEL, D_VOCAB)
    loaded = folder.load()
    family = folder.family
    assert torch.equal(family.W_U(loaded), model.lm_head.weight)
    assert torch.equal(family.W_E(loaded), family.W_E(model))
    assert tied == torch.equal(loaded.get_parameter(f"{family.embedding}.weight"), family.W_U(loaded))
    torch.testing.assert_close(loaded(TOKENS).logits, model(TOKENS).logits)


def test_pythias_released_names_and_buffers_are_read(tmp_path: Path) -> None:
    model = tiny_model("gpt_neox")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    weights["embed_out.weight"] = weights.pop("embed_out.weight")
    for layer in range(N_LAYERS):
        attention = f"gpt_neox.layers.{layer}.attention"
        weights[f"{attention}.bias"] = torch.ones(1, 1, 16, 16, dtype=torch.bool)
        weights[f"{attention}.masked_bias"] = torch.tensor(-1e9)
        weights[f"{attention}.rotary_emb.inv_freq"] = torch.ones(1)
    save_file(weights, file, metadata={"format": "pt"})
    torch.testing.assert_close(open_model(tmp_path).load()(TOKENS).logits, model(TOKENS).logits)


def gemma_with_a_token_more(folder: Path, token: AddedToken) -> ModelFolder:
    tiny_model("gemma3_text").save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({f"word{i}": i for i in range(D_VOCAB)}, unk_token="word0"))
    tokenizer.add_tokens([token])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return open_model(folder)


def test_a_special_token_may_lack_an_embedding(tmp_path: Path) -> None:
    folder = gemma_with_a_token_more(tmp_path, AddedToken("<image_soft_token>", special=True))
    assert len(folder.tokenizer) == D_VOCAB + 1
    assert folder.n_tokens == D_VOCAB


def test_an_ordinary_token_needs_an_embedding(tmp_path: Path) -> None:
    folder = gemma_with_a_token_more(tmp_path, AddedToken("word50", special=False))
    with pytest.raises(ValueError, match="the tokenizer has 51 tokens, the model 50"):
        _ = folder.tokenizer
