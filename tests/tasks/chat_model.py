"""A chat model whose every answer is known: a real transformers folder; its next token depends on the last alone."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}{{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}{{ ' <first>' if messages[-2] is not defined or messages[-2].role != 'assistant'"
    " else ' <second>' }}{% endif %}"
)
"""The turn of the model begins otherwise where it was told that its answer did not fit."""


def write_chat_model(folder: Path, *, first: str, second: str, takes_system: bool = True, random: bool = False) -> Path:
    """Write a model that answers `first`, and `second` when asked again; `random`: one that babbles."""
    words = ["<unk>", "<end>", "<first>", "<second>", first, second]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>")
    fast.chat_template = TEMPLATE + ("{# system #}" if takes_system else "")
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=4096, bos_token_id=None, eos_token_id=1, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    if not random:
        with torch.no_grad():
            for name, value in model.named_parameters():
                if "norm" not in name:
                    value.zero_()
            model.model.embed_tokens.weight.copy_(torch.eye(len(words), 8))
            for last, next_one in ((2, 4), (3, 5), (4, 1), (5, 1)):
                model.lm_head.weight[next_one, last] = 1.0
    model.save_pretrained(folder)
    return folder
