"""GPT-2."""

from interp.families.family import Family

GPT2 = Family(
    model_type="gpt2",
    blocks="transformer.h",
    embedding="transformer.wte",
    position_embedding="transformer.wpe",
    unembedding="lm_head",
    final_norm="transformer.ln_f",
    attention="attn",
    attention_norm="ln_1",
    query="c_attn",
    key="c_attn",
    value="c_attn",
    layout="qkv",
    output="c_proj",
    transposed=True,
    mlp="mlp",
    mlp_norm="ln_2",
    centred=True,
)
