"""GPT-J: attention and MLP read one norm of the same stream, and the logits have biases."""

from interp.families.family import Family

GPT_J = Family(
    model_type="gptj",
    blocks="transformer.h",
    embedding="transformer.wte",
    unembedding="lm_head",
    final_norm="transformer.ln_f",
    attention="attn",
    attention_norm="ln_1",
    query="q_proj",
    key="k_proj",
    value="v_proj",
    output="out_proj",
    rotated="pairs",
    half_tables=True,
    rotation_table="embed_positions",
    score_divisor="scale_attn",
    mlp="mlp",
    mlp_norm="ln_1",
    always_parallel=True,
    centred=True,
)
