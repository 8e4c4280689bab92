"""Raw pictures and text to NumPy arrays. No jax, no torch."""
