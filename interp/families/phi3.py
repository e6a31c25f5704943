"""Phi-3 and Phi-4: Llama with queries, keys and values in one projection."""

from dataclasses import replace

from interp.families.llama import LLAMA

PHI3 = replace(LLAMA, model_type="phi3", query="qkv_proj", key="qkv_proj", value="qkv_proj", layout="qkv")
