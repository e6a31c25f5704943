"""The corpus for one block: tokenising, active features, statistics and samples, co-activation."""
