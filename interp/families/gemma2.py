"""Gemma-2."""

from interp.families.family import Family

GEMMA2 = Family(
    model_type="gemma2",
    blocks="model.layers",
    embedding="model.embed_tokens",
    scaled_embedding=True,
    unembedding="lm_head",
    final_norm="model.norm",
    attention="self_attn",
    attention_norm="input_layernorm",
    attention_output_norm="post_attention_layernorm",
    query="q_proj",
    key="k_proj",
    value="v_proj",
    output="o_proj",
    mlp="mlp",
    mlp_norm="pre_feedforward_layernorm",
    mlp_output_norm="post_feedforward_layernorm",
    unit_offset=True,
)
