"""Monitoring's own pure decisions; the mathematics is in ctloop.policy."""
