"""What features do on a corpus: activations as sparse lists, their statistics, and samples for a closer look.

`encoding.py` finds the active features, `sampling.py` draws from what one feature did.
"""
