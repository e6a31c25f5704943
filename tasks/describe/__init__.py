"""Descriptions of one shard: the evidence for each feature, and its words."""
