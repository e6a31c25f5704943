"""The costs of a run: sizes, rates, and the plan made from them."""
