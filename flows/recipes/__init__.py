"""What names every output: for each stage, what goes into its hash, and why.

A recipe is a short hash of all that determines an output, so a file under it need not be checked again. Each module is
one frozen dataclass that names what its stage leaves and cuts it into shards; it reads settings and the catalog, and
runs nothing. In the order in which they build on one another:

- `checkpoint`: the checkpoint itself, transcoders that are trained for it, and the text that they are measured on;
- `encoders`: what a layer's activations on given tokens follow from;
- `weightlens`: projections from the checkpoint and the stage's settings; words from projections and the wording;
- `activations`: a pass from checkpoint, corpus and which positions count; samples from the passes and what is drawn;
- `coactivation`: sums from a pass; edges from the passes, the stage's settings and WeightLens's projections;
- `circuitlens`: attributions from the samples and the stage's settings; the causal check from these;
- `describe`: descriptions from what the catalog holds of the stages before, the explainer and its settings;
- `evaluate`: what is judged on from the descriptions; what a judge said from that; figures from what it said;
- `drift`: a comparison of two checkpoints from both and its settings.

Every stage's recipe also has a version that is bumped by hand when the same ingredients would give something else. What
never goes into a recipe: names, paths, where files came from, and how work is spread (`engine`).

`ingredients` are narrower, and by layer: what one layer's rows follow from, whichever checkpoint they are in. Where
they agree, what another checkpoint has is copied (`storage.shared_shards`).
"""
