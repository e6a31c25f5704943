"""Experiments on one prompt: its active features, attribution graphs, and the effects of changes."""
