"""Train transcoders: the gradients written out, the optimiser, and the layers of a model side by side."""
