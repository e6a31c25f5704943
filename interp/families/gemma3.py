"""The text models of Gemma-3 (270M, 1B): Gemma-2 with norms on queries and keys."""

from dataclasses import replace

from interp.families.gemma2 import GEMMA2

GEMMA3 = replace(GEMMA2, model_type="gemma3_text", query_norm="q_norm", key_norm="k_norm")
