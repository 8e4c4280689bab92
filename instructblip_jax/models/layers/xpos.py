"""Rotary positions whose effect fades with distance (xPos, arXiv 2212.10554), as angles for `rope.rotate`."""

import jax
import jax.numpy as jnp

from instructblip_jax.models.layers import rope

BASE = 10000.0
FADING, SMOOTH = 512, 0.4
"""The published code's numbers: positions over which the slowest pair fades by one power, and gamma of the paper."""


def angles(positions: jax.Array, head_size: int, centre: int) -> tuple[rope.Angles, rope.Angles]:
    """positions int [..., T] -> cosines and sines float32 [..., T, K] of queries, and those of keys.

    Pair i of a head is scaled by zeta_i ^ ((position - ``centre``) / 512) in queries, and by its inverse in keys,
    zeta_i = (2 i + 0.4 K) / 1.4 K. A product of the two depends on their distance alone, and so not on the centre,
    which only keeps the powers small: keys can be cached as they are, whatever follows them.
    """
    cos, sin = rope.angles(positions, head_size, BASE)
    zeta = (jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size + SMOOTH) / (1 + SMOOTH)
    power = (positions[..., None].astype(jnp.float32) - centre) / FADING
    scale = jnp.tile(zeta, 2) ** power
    return (cos * scale, sin * scale), (cos / scale, sin / scale)
