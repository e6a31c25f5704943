"""WeightLens for one shard: single-token activations, projections, propagation and descriptions."""
