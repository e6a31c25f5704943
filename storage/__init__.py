"""Stored data: the store's arrays (Zarr) and parts (Parquet), the DuckDB catalog, transcoder formats, corpora."""
