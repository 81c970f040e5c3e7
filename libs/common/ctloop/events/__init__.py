"""The contract: every fact on the bus, its envelope and its topic. Imports pydantic only."""
