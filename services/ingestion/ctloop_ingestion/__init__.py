"""Ingestion: how arrivals become batches that land exactly once."""
