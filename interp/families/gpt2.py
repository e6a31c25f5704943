"""GPT-2."""

from interp.families.family import Family

GPT2 = Family(
    model_type="gpt2",
    blocks="transformer.h",
    embedding="transformer.wte",
    unembedding="lm_head",
    final_norm="transformer.ln_f",
    mlp="mlp",
    mlp_norm="ln_2",
    centred=True,
)
