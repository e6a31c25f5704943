"""The kinds of contributors to an activation; `mlp` is a whole MLP, where it is not split into features."""

FEATURE, HEAD, TOKEN, ERROR, BIAS, MLP = KINDS = ("feature", "head", "token", "error", "bias", "mlp")
