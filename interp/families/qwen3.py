"""Qwen-3: Llama with norms on queries and keys; and its mixture of experts."""

from dataclasses import replace

from interp.families.llama import LLAMA

QWEN3 = replace(LLAMA, model_type="qwen3", query_norm="q_norm", key_norm="k_norm")

QWEN3_MOE = replace(QWEN3, model_type="qwen3_moe")
"""A transcoder replaces the whole block of router and experts, which is one module."""
