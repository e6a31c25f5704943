"""Whose description stands for a feature that several methods describe."""

PREFERRED = (
    "human", "wl+cl", "circuitlens-full", "circuitlens-input", "weightlens", "weightlens+twera", "maxact*", "maxact",
    "weightlens+out+llm", "weightlens+out",
)  # fmt: skip
"""Methods, the most telling first: those that say where a feature fires before those that may only say what it
promotes, which nobody can check by its texts."""
