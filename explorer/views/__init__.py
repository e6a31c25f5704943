"""One page a file: what it reads of the catalog."""
