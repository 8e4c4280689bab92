"""Attention to a picture's tokens as maps over its patches, as `protocol.Looks` has them."""

import jax

QUERIES, WORDS = "queries", "words"
"""Those that read a picture: learnt queries or latents, whose number is fixed; the tokens of a text."""


def on_grid(found: jax.Array, grid: int) -> jax.Array:
    """Attention to a tower's tokens [..., P] -> to its patches [..., grid, grid]. A class token, which stands before
    the patches, is left out with its part of the attention."""
    return found[..., -grid * grid :].reshape(*found.shape[:-1], grid, grid)
