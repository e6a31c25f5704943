"""Model folders of every family, as transformers writes them and as releases have them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, PreTrainedTokenizerFast

from storage.models import ModelFolder, open_model
from storage.tokenising import token_ids
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


def changed_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> ModelFolder:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return open_model(folder)


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gpt2"])
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_weights_of_a_compiled_or_data_parallel_model(name: str, prefix: str, tmp_path: Path) -> None:
    model = tiny_model(name, tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    folder = changed_weights(tmp_path, lambda weights: {prefix + key: value for key, value in weights.items()})
    torch.testing.assert_close(folder.load()(TOKENS).logits, model(TOKENS).logits)


def test_two_namings_in_one_folder_are_refused(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    folder = changed_weights(tmp_path, lambda weights: {**weights, "module.model.norm.weight": torch.ones(D_MODEL)})
    with pytest.raises(ValueError, match=r"weights named module\.model\.norm\.weight and .*; expected one naming"):
        folder.load()


def test_masks_that_older_versions_saved_are_no_weights(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    model.save_pretrained(tmp_path)
    masks = {f"transformer.h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(N_LAYERS)}
    masks |= {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 16, 16, dtype=torch.uint8) for i in range(N_LAYERS)}
    folder = changed_weights(tmp_path, lambda weights: {**weights, **masks})
    torch.testing.assert_close(folder.load()(TOKENS).logits, model(TOKENS).logits)
    strange = {"transformer.h.0.attn.masked_bias": torch.ones(D_MODEL)}
    with pytest.raises(ValueError, match=r"unexpected keys \['transformer\.h\.0\.attn\.masked_bias'\]"):
        changed_weights(tmp_path, lambda weights: {**weights, **strange}).load()


def test_a_folder_with_an_adapter_says_so(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base", "peft_type": "LORA"}')
    save_file({"base_model.lora_A.weight": torch.ones(2, 2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"holds an adapter of org/base, not a whole model: merge it"):
        open_model(tmp_path)


def test_only_the_files_that_transformers_reads_count(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    (tmp_path / "consolidated.safetensors").write_bytes(b"another program's")
    folder = open_model(tmp_path)
    assert len(shards) > 1
    assert folder.weight_files == tuple(shards)
    torch.testing.assert_close(folder.load()(TOKENS).logits, model(TOKENS).logits)
    shards[1].unlink()
    with pytest.raises(ValueError, match=r"index\.json: names .*, which is not there"):
        open_model(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    for shard in shards[:1] + shards[2:]:
        shard.unlink()
    with pytest.raises(ValueError, match=r"has neither model\.safetensors nor .*; found consolidated\.safetensors"):
        open_model(tmp_path)


@pytest.mark.parametrize(("n_rows", "is_padding"), [(round(1000 * 102400 / 100015), True), (1100, False)])
def test_a_vocabulary_padded_beyond_the_tokenizer(n_rows: int, is_padding: bool, tmp_path: Path) -> None:
    tiny_model("llama", vocab_size=n_rows).save_pretrained(tmp_path)
    tokenizer = Tokenizer(models.WordLevel({f"word{i}": i for i in range(1000)}, unk_token="word0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    folder = open_model(tmp_path)
    if is_padding:
        assert folder.n_tokens == 1000
    else:
        with pytest.raises(ValueError, match="the tokenizer has 1000 tokens, the model 1100"):
            _ = folder.tokenizer


def test_a_tokenizer_whose_pattern_tries_every_way_to_match_is_refused(tmp_path: Path) -> None:
    tiny_model("gpt2").save_pretrained(tmp_path)
    tokenizer = Tokenizer(models.WordLevel({f"word{i}": i for i in range(D_VOCAB)}, unk_token="word0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"{tmp_path}: no readable tokenizer \(the tokenizer of .* characters cannot"):
        _ = open_model(tmp_path).tokenizer


def test_a_tokenizer_that_does_not_come_to_an_end_is_given_up() -> None:
    never = Event()

    def tokenizer(texts: list[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]:
        never.wait()
        return {"input_ids": [[0] for _ in texts]}

    with pytest.raises(ValueError, match=r"10 characters take more than 0\.01 s; does tokenizer.json have a pattern"):
        token_ids(tokenizer, ["0123456789"], 0.01)
    never.set()
    assert token_ids(tokenizer, ["a", "b"]) == [[0], [0]]


@pytest.mark.parametrize("naming", ["language_model.model.", "model.language_model."])
def test_the_text_part_of_a_model_of_texts_and_images(naming: str, tmp_path: Path) -> None:
    text = {**CONFIGS["gemma3_text"].to_dict(), "final_logit_softcapping": None}  # which the whole model ignores
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    images = {**sizes, "image_size": 4, "patch_size": 2}
    whole = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=images, mm_tokens_per_image=4, image_token_index=49)
    ).eval()
    whole.save_pretrained(tmp_path)

    def named(name: str) -> str:
        return re.sub(r"^(language_model\.model|model\.language_model)\.", naming, name)

    changed_weights(tmp_path, lambda weights: {named(name): value for name, value in weights.items()})
    folder = open_model(tmp_path)
    assert (folder.family.model_type, folder.whole, folder.d_model) == ("gemma3_text", "gemma3", D_MODEL)
    loaded = folder.load()
    assert not any("vision" in name for name, _ in loaded.named_parameters())
    torch.testing.assert_close(loaded(TOKENS).logits, whole(TOKENS).logits)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, r"quantised by 'bitsandbytes' \(4-bit\); read are"),
        ({"quant_method": "gptq", "bits": 4}, "quantised by 'gptq'; read are"),
        ({"quant_method": "fp8"}, r"FineGrainedFP8Config\(dequantize=True\), then save_pretrained"),
        ("strange", "quantised by None"),
    ],
)
def test_how_weights_are_quantised_is_named(config: object, message: str, tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "quantization_config": config}))
    with pytest.raises(ValueError, match=message):
        open_model(tmp_path)


E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def test_mxfp4_is_dequantised(tmp_path: Path) -> None:
    """Two numbers a byte, the lower four bits first, and an exponent for each 32 (OCP microscaling formats)."""
    sizes = {"hidden_size": 32, "intermediate_size": 32}
    tiny_model("gpt_oss", **sizes).save_pretrained(tmp_path)
    expected: dict[str, torch.Tensor] = {}

    def quantised(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
            n_experts, n_in, n_out = weights.pop(name).shape
            blocks = torch.randint(0, 256, (n_experts, n_out, n_in // 32, 16), dtype=torch.uint8)
            scales = torch.randint(120, 130, (n_experts, n_out, n_in // 32), dtype=torch.uint8)
            weights |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            bits = torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2).int()
            values = E2M1[bits & 7] * torch.where(bits < 8, 1, -1) * 2.0 ** (scales[..., None].float() - 127)
            expected[name] = values.flatten(2).transpose(1, 2)
        return weights

    changed_weights(tmp_path, quantised)
    settings = json.loads((tmp_path / "config.json").read_text())
    quantisation = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (tmp_path / "config.json").write_text(json.dumps({**settings, "quantization_config": quantisation}))
    folder = open_model(tmp_path)
    assert folder.folded == ("the model's mxfp4 weights, dequantised to float32",)
    weights = dict(folder.load().named_parameters())
    assert len(expected) == 2 * N_LAYERS
    for name, value in expected.items():
        assert weights[name].dtype == torch.float32
        assert torch.equal(weights[name], value)


@pytest.mark.parametrize("whole", [True, False])
def test_a_gguf_file_says_how_to_convert_it(tmp_path: Path, whole: bool) -> None:
    (file := tmp_path / "model-Q4_K_M.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"holds model-Q4_K_M\.gguf, .*gguf_file='model-Q4_K_M\.gguf', dtype="):
        open_model(tmp_path if whole else file)
