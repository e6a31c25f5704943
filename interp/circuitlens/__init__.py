"""CircuitLens: what made a feature fire at a token, and what the feature did there.

Bottom up: `frozen` runs a model on a sequence and fixes what is not linear in it; `attribution` carries the reading
directions of many features (or logits) back to all their possible sources; `effects` carries what a feature writes
forward to the logits; `contributors` selects the significant sources; `clusters` groups activations by their sources;
`graph` is the attribution graph of one prompt; `causality` checks by ablation whether the sources are causes.
"""
