"""Change features and heads of a running model, and measure the effects."""
