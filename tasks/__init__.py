"""One step for one shard: read, call `interp`, write, return the key. Done work is recognised and skipped."""
