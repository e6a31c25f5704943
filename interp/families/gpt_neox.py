"""GPT-NeoX and Pythia."""

from interp.families.family import Family

GPT_NEOX = Family(
    model_type="gpt_neox",
    blocks="gpt_neox.layers",
    embedding="gpt_neox.embed_in",
    unembedding="lm_head",
    final_norm="gpt_neox.final_layer_norm",
    attention="attention",
    attention_norm="input_layernorm",
    query="query_key_value",
    key="query_key_value",
    value="query_key_value",
    layout="qkv of each head",
    output="dense",
    mlp="mlp",
    mlp_norm="post_attention_layernorm",
    parallel_setting="use_parallel_residual",
    centred=True,
)
