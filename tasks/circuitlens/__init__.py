"""CircuitLens for one block of samples or shard of features: attribution, clusters, the causal check."""
