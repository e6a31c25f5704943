"""A tiny random model of every family, made so that no bias, norm, window, cap or grouping goes unnoticed."""

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Olmo3Config,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

D_MODEL, D_VOCAB, N_LAYERS, EPS = 16, 50, 3, 0.02
WINDOW = 4
SIZES: dict[str, Any] = {
    "vocab_size": D_VOCAB, "hidden_size": D_MODEL, "intermediate_size": 24, "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4, "max_position_embeddings": 16,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2, "rms_norm_eps": EPS}
WIDE_HEADS = {"head_dim": 6, "attention_bias": True}
QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
PARTLY_ROTATED = {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}}
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 50.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 2.0, "original_max_position_embeddings": 8}
GEMMA = {
    "sliding_window": WINDOW, "query_pre_attn_scalar": 5, "attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.0,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}  # fmt: skip

CONFIGS: dict[str, PretrainedConfig] = {
    "gpt2": GPT2Config(
        vocab_size=D_VOCAB, n_positions=16, n_embd=D_MODEL, n_layer=N_LAYERS, n_head=4, layer_norm_epsilon=EPS
    ),
    "gpt_neox": GPTNeoXConfig(**SIZES, layer_norm_eps=EPS, use_parallel_residual=True),
    "gpt_neox_sequential": GPTNeoXConfig(**SIZES, layer_norm_eps=EPS, use_parallel_residual=False),
    "gptj": GPTJConfig(
        vocab_size=D_VOCAB,
        n_positions=16,
        n_embd=D_MODEL,
        n_layer=N_LAYERS,
        n_head=4,
        rotary_dim=4,
        layer_norm_epsilon=EPS,
    ),
    "llama": LlamaConfig(**GROUPED, **WIDE_HEADS, mlp_bias=True),
    "gemma2": Gemma2Config(**GROUPED, **WIDE_HEADS, **GEMMA),
    "gemma3_text": Gemma3TextConfig(**GROUPED, **WIDE_HEADS, **GEMMA),
    "qwen2": Qwen2Config(**GROUPED, **QWEN_WINDOW),
    "qwen3": Qwen3Config(**GROUPED, **WIDE_HEADS, **QWEN_WINDOW),
    "qwen3_moe": Qwen3MoeConfig(
        **GROUPED, **WIDE_HEADS, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12
    ),
    "phi3": Phi3Config(**GROUPED, **PARTLY_ROTATED, pad_token_id=0),
    "olmo2": Olmo2Config(**GROUPED, attention_bias=True),
    "gpt_oss": GptOssConfig(
        **GROUPED, head_dim=6, sliding_window=WINDOW, num_local_experts=3, num_experts_per_tok=2, rope_parameters=YARN
    ),
    "llama3": LlamaConfig(**GROUPED, rope_parameters=LLAMA3_ROPE),
    "mistral": MistralConfig(**GROUPED, head_dim=6, sliding_window=WINDOW),
    "mixtral": MixtralConfig(**GROUPED, num_local_experts=3),
    "olmo3": Olmo3Config(**GROUPED, sliding_window=WINDOW),
}

ALIKE = ("llama3", "mistral", "mixtral", "olmo3")
"""Read by the table of another model here: what is made of the frozen model follows from it alike."""

DIFFERENT = [name for name in CONFIGS if name not in ALIKE]


def tiny_model(name: str, **changes: Any) -> Any:
    """The model of `CONFIGS[name]` with some settings changed, every parameter moved away from where it starts."""
    torch.manual_seed(0)
    config = CONFIGS[name]
    model = AutoModelForCausalLM.from_config(config.from_dict({**config.to_dict(), **changes})).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) * 0.3)
    return model
