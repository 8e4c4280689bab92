"""Rotary positions whose effect decays with distance (xPos, arXiv 2212.10554), as angles for `rope.rotate`."""

import jax
import jax.numpy as jnp

from instructblip_jax.models.layers import rope

BASE = 10000.0
FADING, SMOOTH = 512, 0.4
"""Constants of the published code: positions over which the slowest pair decays by one power, and the paper's gamma."""


def angles(positions: jax.Array, head_size: int, centre: int) -> tuple[rope.Angles, rope.Angles]:
    """positions int [..., T] -> cosines and sines float32 [..., T, K] of queries, and those of keys.

    Pair i of a head is scaled by zeta_i ^ ((position - ``centre``) / 512) in queries, and by its inverse in keys,
    zeta_i = (2 i + 0.4 K) / 1.4 K. A product of the two depends only on their distance, not on the centre, which merely
    keeps the powers small. Rotated keys can therefore be cached.
    """
    cos, sin = rope.angles(positions, head_size, BASE)
    zeta = (jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size + SMOOTH) / (1 + SMOOTH)
    power = (positions[..., None].astype(jnp.float32) - centre) / FADING
    scale = jnp.tile(zeta, 2) ** power
    return (cos * scale, sin * scale), (cos / scale, sin / scale)
