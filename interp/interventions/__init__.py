"""Change features and heads of a running model, and see what follows."""
