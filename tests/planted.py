"""A hand-built Llama whose transcoders' every token and edge is known.

Token t is the basis vector t of the residual stream, in the embedding and the unembedding; attention does
nothing. In layer 0, feature 3 fires on tokens 5 and 7 and writes direction 40; layer 1's feature 2 reads
direction 40, promotes token 9 and suppresses token 11. Feature 1 of layer 0 fires on token 12 alone. The
MLPs do what the transcoders say. All other features read nothing.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from interp.capture import Hooks
from storage.formats.circuit_tracer import folder_config

D_MODEL, D_VOCAB, D_TRANSCODER, N_LAYERS = 48, 32, 16, 2
WORDS = ["<s>", *(f"word{i}" for i in range(1, D_VOCAB))]
HIDDEN = 40  # the direction by which layer 0 tells layer 1
NORM = D_MODEL**0.5  # what RMSNorm makes of a basis vector


def write_planted(folder: Path, *, mlp: bool = True, words: Sequence[str] = WORDS) -> tuple[Path, Path, Path]:
    """Write model, transcoders and a text; returns their paths. `mlp=False` leaves the MLPs silent; `words` is the
    vocabulary."""
    model_path, transcoder_path, text_path = folder / "model", folder / "transcoders", folder / "text.txt"
    _model(mlp).save_pretrained(model_path)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<s>").save_pretrained(model_path)
    transcoder_path.mkdir(parents=True)
    for layer in range(N_LAYERS):
        save_file(_transcoder(layer), transcoder_path / f"layer_{layer}.safetensors")
    config = folder_config("planted", Hooks("mlp_in", "mlp_out"), "relu", None)
    (transcoder_path / "config.yaml").write_text(config)
    text_path.write_text(" ".join(words[1 + i * 7 % (D_VOCAB - 1)] for i in range(400)))
    return model_path, transcoder_path, text_path


def _model(mlp: bool) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=D_VOCAB,
        hidden_size=D_MODEL,
        intermediate_size=8,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" not in name:
                value.zero_()
        eye = torch.eye(D_VOCAB, D_MODEL)
        model.model.embed_tokens.weight.copy_(eye)
        model.lm_head.weight.copy_(eye)
        if mlp:
            _neuron(model.model.layers[0].mlp, 0, (5, 7), {HIDDEN: 3.0})
            _neuron(model.model.layers[0].mlp, 1, (12,), {41: 3.0})
            _neuron(model.model.layers[1].mlp, 0, (HIDDEN,), {9: 2.0, 11: -2.0})
    return model


def _neuron(mlp, neuron: int, reads: tuple[int, ...], writes: dict[int, float]) -> None:
    for direction in reads:
        mlp.gate_proj.weight[neuron, direction] = 1.0
        mlp.up_proj.weight[neuron, direction] = 1.0
    for direction, amount in writes.items():
        mlp.down_proj.weight[direction, neuron] = amount / NORM**2


def _transcoder(layer: int) -> dict[str, torch.Tensor]:
    W_enc, W_dec = torch.zeros(D_TRANSCODER, D_MODEL), torch.zeros(D_TRANSCODER, D_MODEL)
    if layer == 0:
        W_enc[3, [5, 7]] = 1.0
        W_dec[3, HIDDEN] = 3.0 / NORM
        W_enc[1, 12] = 1.0
        W_dec[1, 41] = 3.0 / NORM
    else:
        W_enc[2, HIDDEN] = 1.0
        W_dec[2, 9], W_dec[2, 11] = 2.0 / NORM, -2.0 / NORM
    return {"W_enc": W_enc, "W_dec": W_dec, "b_enc": torch.full((D_TRANSCODER,), -0.1), "b_dec": torch.zeros(D_MODEL)}
