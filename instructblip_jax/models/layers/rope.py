"""Rotary position embeddings (RoFormer, arXiv 2104.09864) in the half-split form of the public LLaMA weights."""

import jax
import jax.numpy as jnp

Angles = tuple[jax.Array, jax.Array]


def angles(positions: jax.Array, head_size: int, base: float) -> Angles:
    """positions int [..., T] -> cosines and sines, float32 [..., T, K / 2]: the same for every head."""
    frequency = base ** (-jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size)
    angle = positions[..., None].astype(jnp.float32) * frequency
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, cos_sin: Angles, *, heads: int) -> jax.Array:
    """Rotate x by the angles of its positions, in float32; channel i is paired with channel i + K / 2.

    ``heads``: the axis of x that holds the heads, -2 for queries [..., T, H, K], -3 for keys [..., G, T, K].
    """
    cos, sin = (jnp.expand_dims(x, heads) for x in cos_sin)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
