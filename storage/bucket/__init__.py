"""Stores in a bucket: the object store, its lease, its manifest, and the local working copy."""
