"""One page in each file: the queries for its content."""
