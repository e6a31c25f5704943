"""Evaluation of one layer: held-out texts, judging, scores, stability, drift."""
