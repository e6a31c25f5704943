"""OLMo-2 and OLMo-3: norms come after attention and MLP, which read the residual stream itself."""

from dataclasses import replace

from interp.families.llama import LLAMA

OLMO2 = replace(
    LLAMA,
    model_type="olmo2",
    attention_norm=None,
    attention_output_norm="post_attention_layernorm",
    mlp_norm=None,
    mlp_output_norm="post_feedforward_layernorm",
    query_norm="q_norm",
    key_norm="k_norm",
)

OLMO3 = replace(OLMO2, model_type="olmo3")
