"""Theorem A.1: measurements and figures."""
