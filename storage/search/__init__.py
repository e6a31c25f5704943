"""Search: for words in descriptions and texts, and for descriptions with similar meaning."""
