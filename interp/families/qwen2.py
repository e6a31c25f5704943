"""Qwen-2 and Qwen-2.5: Llama with biases on queries, keys and values."""

from interp.families.family import Family

QWEN2 = Family(
    model_type="qwen2",
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
