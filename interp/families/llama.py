"""Llama 2, 3 and the many models of the same shape."""

from interp.families.family import Family

LLAMA = Family(
    model_type="llama",
    blocks="model.layers",
    embedding="model.embed_tokens",
    unembedding="lm_head",
    final_norm="model.norm",
    attention="self_attn",
    attention_norm="input_layernorm",
    query="q_proj",
    key="k_proj",
    value="v_proj",
    output="o_proj",
    mlp="mlp",
    mlp_norm="post_attention_layernorm",
)
