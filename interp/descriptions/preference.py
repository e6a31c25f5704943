"""Whose description stands for a feature that several methods describe."""

PREFERRED = (
    "human", "wl+cl", "circuitlens-full", "circuitlens-input", "weightlens+out+llm", "weightlens+out", "weightlens",
    "maxact*", "maxact",
)  # fmt: skip
"""Methods, the most telling first."""
