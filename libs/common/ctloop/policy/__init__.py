"""The brain: conditions, losses, windows, drift, gates, decisions. Pure; ``now`` is data time and an argument."""
