"""A staged batch: what ingestion writes beside the record's own columns, and validation and the lake read."""

SEQUENCE, ARRIVED, RAW, PROBLEM = "_sequence", "_arrived", "_raw", "_problem"
ROWS_PER_ARRIVAL = 1 << 24
"""``_sequence`` is the arrival's number times this, and the row."""
FIRST, FAR = -62_135_596_800_000_000, 253_402_300_800_000_000
"""Microseconds of the years 1 and 10000: the times Python, Delta and people have."""
