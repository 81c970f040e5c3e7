"""What tests drive services with."""
