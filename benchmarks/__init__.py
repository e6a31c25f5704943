"""Figures with their commands. Each benchmark prints one JSON object a line with `--json`."""
