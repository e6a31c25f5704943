"""The explorer: pages over the published catalog, for a browser on this machine. Reads, and never writes the store."""
