"""Measurements of the library: speed, size and robustness."""
