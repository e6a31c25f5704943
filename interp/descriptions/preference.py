"""Which method's description is shown for a feature that several methods describe."""

PREFERRED = (
    "human", "wl+cl", "circuitlens-full", "circuitlens-input", "weightlens", "weightlens+twera", "maxact*", "maxact",
    "weightlens+out+llm", "weightlens+out",
)  # fmt: skip
"""Methods in order of preference. Those that say where a feature fires come before those that may say only what it
promotes, which cannot be checked against its texts."""
