"""What a request may bring and what an answer says; pure."""
