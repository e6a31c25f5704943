"""The explorer: web pages for the published catalog, for a browser on this machine. It reads the store and never writes
it."""
