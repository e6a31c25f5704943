"""WeightLens: what a feature means, read from weights alone and validated by one-token forward passes.

Bottom up: `coordinates` puts encoders and decoders in the residual stream's coordinates, in which
`interp.projection` scores them against tokens and earlier features; `single_token` is what every token
alone activates; `propagation` hands validated tokens up the edges; `description` puts them into words.
"""
