"""CircuitLens: why a feature fired at a token, and what it did there.

Bottom up: `frozen` reads a model on a sequence and leaves what is linear of it; `attribution` carries the reading
directions of many features (or logits) back through it to everything they can have come from; `effects` carries what a
feature writes forward to the logits; `contributors` keeps what stands out; `clusters` groups activations by what caused
them; `graph` is the attribution graph of one prompt; `causality` asks by ablation whether the causes found are causes.
"""
