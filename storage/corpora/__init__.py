"""Texts and the rows of tokens made from them: sources, reading, packing, and the tokenised corpus in Zarr."""
