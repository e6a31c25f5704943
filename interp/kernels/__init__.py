"""Loops that numba compiles: the hot paths of projections, activations and co-activation."""
