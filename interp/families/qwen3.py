"""Qwen-3: Llama with norms on queries and keys."""

from interp.families.family import Family

QWEN3 = Family(
    model_type="qwen3",
    blocks="model.layers",
    embedding="model.embed_tokens",
    unembedding="lm_head",
    final_norm="model.norm",
    attention="self_attn",
    attention_norm="input_layernorm",
    value="v_proj",
    output="o_proj",
    mlp="mlp",
    mlp_norm="post_attention_layernorm",
)
