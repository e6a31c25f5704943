"""WeightLens: the meaning of a feature from weights alone, validated by forward passes of single tokens.

Bottom up: `coordinates` transforms encoders and decoders to the residual stream's coordinates, in which
`interp.projection` scores them against tokens and earlier features; `single_token` computes what every token alone
activates; `propagation` passes validated tokens along edges; `description` puts them into words.
"""
