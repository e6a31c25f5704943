"""Features on a corpus: activations as sparse lists, their statistics, and samples of them.

`encoding.py` finds the active features, `sampling.py` draws samples of each feature's activations.
"""
