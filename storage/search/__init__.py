"""Search: words in descriptions and texts, and descriptions of like meaning."""
