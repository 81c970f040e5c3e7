"""The command ``ctloop``: light at the top, heavy libraries only inside the command that needs them."""
