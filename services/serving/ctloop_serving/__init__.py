"""Serving: verified ONNX bytes answer requests, with nothing else running."""
