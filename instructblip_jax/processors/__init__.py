"""Processors: raw media and text -> NumPy arrays. No jax, no torch."""
