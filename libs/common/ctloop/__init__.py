"""ctloop: continuous training closed by events."""
