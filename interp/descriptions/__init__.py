"""Descriptions of features: the evidence for them, prompts to language models, and rules that put evidence into
words."""
