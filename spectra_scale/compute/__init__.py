"""Places where independent shard tasks run: here, on a Dask cluster, or on Ray."""
