"""What can contribute to an activation."""

FEATURE, HEAD, TOKEN, ERROR, BIAS = KINDS = ("feature", "head", "token", "error", "bias")
