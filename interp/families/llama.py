"""Llama 2, 3 and the many models of the same shape."""

from interp.families.family import Family

LLAMA = Family(
    model_type="llama",
    blocks="model.layers",
    embedding="model.embed_tokens",
    unembedding="lm_head",
    final_norm="model.norm",
    mlp="mlp",
    mlp_norm="post_attention_layernorm",
)
