"""Convolution, batch normalization and max-pooling in forms that are fast on CPUs.

Each computes what Flax's own does, to rounding, and is used by the networks in its
place; on other platforms they are Flax's.
"""
