"""Validation's own decisions."""
