"""GPT-OSS: a mixture of experts, with a sink in every head that takes attention and gives nothing."""

from dataclasses import replace

from interp.families.llama import LLAMA

GPT_OSS = replace(LLAMA, model_type="gpt_oss", half_tables=True)
"""A transcoder stands for the whole block of router and experts. What the sinks take is missing from the sums of the
attention patterns, which are below 1."""
