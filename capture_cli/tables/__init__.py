"""Runs as flat rows: JSON Lines, CSV, Parquet, SQL conditions."""
