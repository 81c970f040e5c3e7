"""Ingestion's own decisions."""
