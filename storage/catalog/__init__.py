"""The DuckDB catalog: its tables, the Parquet parts they are loaded from, the published copy, runs, and vacuum."""
