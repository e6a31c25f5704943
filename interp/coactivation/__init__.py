"""Which features fire together, and the virtual weights between them weighted by that: ERA and TWERA."""
