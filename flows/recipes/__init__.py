"""Recipes, which name every output: for each stage, what goes into its hash, and why.

A recipe is a short hash of everything that an output depends on, so an existing file under it need not be checked
again. Each module has one frozen dataclass with the recipes of its stage's outputs and their division into shards; it
reads settings and the catalog, and runs nothing. In the order in which they depend on one another:

- `checkpoint`: the checkpoint itself, transcoders that are trained for it, and the text that they are measured on;
- `encoders`: what a layer's activations on given tokens depend on;
- `weightlens`: projections from the checkpoint and the stage's settings; words from projections and the wording;
- `activations`: a pass from checkpoint, corpus and which positions count; samples from the passes and what is drawn;
- `coactivation`: sums from a pass; edges from the passes, the stage's settings and WeightLens's projections;
- `circuitlens`: attributions from the samples and the stage's settings; the causal check from these;
- `describe`: descriptions from the catalog's results of earlier stages, the explainer and its settings;
- `evaluate`: the material from the descriptions; a judge's answers from the material; scores from the answers;
- `drift`: a comparison of two checkpoints from both and its settings.

Every stage's recipe also has a version, which is raised by hand when the same inputs would give something else. Names,
paths, where files came from, and how work is distributed (`engine`) are never part of a recipe.

`ingredients` are narrower, and by layer: what one layer's rows depend on, in whichever checkpoint. If they are equal,
another checkpoint's results are copied (`storage.shared_shards`).
"""
