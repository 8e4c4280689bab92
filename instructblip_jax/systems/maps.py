"""Attention to an image's tokens as maps over its patches; see `protocol.Looks`."""

import jax

QUERIES, WORDS = "queries", "words"
"""Kinds of maps. They belong to learnt queries or latents, whose number is fixed, or to the tokens of a text."""


def on_grid(found: jax.Array, grid: int) -> jax.Array:
    """Attention to a tower's tokens [..., P] -> to its patches [..., grid, grid]. A class token, which comes before the
    patches, is left out with its share of the attention."""
    return found[..., -grid * grid :].reshape(*found.shape[:-1], grid, grid)
