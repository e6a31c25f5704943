"""Which features fire together, and what that makes of the weights between them: ERA and TWERA."""
