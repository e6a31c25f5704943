"""Loops compiled by numba: the hot paths of projections, activations, attribution, co-activation and training."""
