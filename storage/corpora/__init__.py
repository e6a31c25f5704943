"""Texts and the rows of tokens made of them: sources, reading, packing, and the tokenised corpus in Zarr."""
