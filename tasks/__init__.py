"""One step for one shard: read, compute with `interp`, write, return the key. Finished work is recognised and
skipped."""
