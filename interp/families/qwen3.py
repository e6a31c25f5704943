"""Qwen-3: Llama with norms on queries and keys."""

from dataclasses import replace

from interp.families.llama import LLAMA

QWEN3 = replace(LLAMA, model_type="qwen3", query_norm="q_norm", key_norm="k_norm")
