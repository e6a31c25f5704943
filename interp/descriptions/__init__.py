"""From what is known of a feature to a description: evidence, prompts, and wording by rule."""
