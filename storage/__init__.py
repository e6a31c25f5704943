"""Where things live: the Zarr store, Parquet parts, the DuckDB catalog, checkpoint formats, corpora."""
