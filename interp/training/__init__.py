"""Train transcoders: explicit gradients, the optimiser, and all layers of a model at the same time."""
