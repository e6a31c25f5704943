"""The kinds of contributors to an activation."""

FEATURE, HEAD, TOKEN, ERROR, BIAS = KINDS = ("feature", "head", "token", "error", "bias")
