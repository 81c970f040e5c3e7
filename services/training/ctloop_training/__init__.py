"""Decides when a model is worth training again, and trains it."""
