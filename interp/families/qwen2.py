"""Qwen-2 and Qwen-2.5: Llama with biases on queries, keys and values."""

from dataclasses import replace

from interp.families.llama import LLAMA

QWEN2 = replace(LLAMA, model_type="qwen2")
