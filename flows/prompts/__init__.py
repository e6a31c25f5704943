"""Questions about one prompt: a checkpoint with its model, what its features do there, what follows if they change."""
