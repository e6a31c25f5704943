"""Llama 2 and 3, Mistral, Mixtral and other models with the same structure."""

from dataclasses import replace

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

MISTRAL = replace(LLAMA, model_type="mistral")

MIXTRAL = replace(LLAMA, model_type="mixtral")
"""A mixture of experts: a transcoder replaces the whole block of router and experts."""
