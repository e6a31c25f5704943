"""What a run will take: sizes, rates, and the plan made of them."""
