"""Rotary position embeddings (RoFormer, arXiv 2104.09864) in the half-split form of the public LLaMA weights."""

import jax
import jax.numpy as jnp
import numpy as np

Angles = tuple[jax.Array, jax.Array]
SWAP = "rotary_swap"
"""Scope of a product that only moves channels, which does not count as work of the model (`plan.flops`)."""


def angles(positions: jax.Array, head_size: int, base: float) -> Angles:
    """positions int [..., T] -> cosines and sines, float32 [..., T, K], the same for every head; channels i and
    i + K / 2 have the same angle."""
    frequency = base ** (-jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size)
    angle = positions[..., None].astype(jnp.float32) * frequency
    angle = jnp.concatenate([angle, angle], axis=-1)
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, cos_sin: Angles) -> jax.Array:
    """Rotate x [..., T, H, K] by the angles of its positions, in float32; channels i and i + K / 2 are a pair."""
    cos, sin = (jnp.expand_dims(y, -2) for y in cos_sin)
    return (x.astype(jnp.float32) * cos + _partner(x).astype(jnp.float32) * sin).astype(x.dtype)


def _partner(x: jax.Array) -> jax.Array:
    """The other channel of each pair: minus the second half of the channels, then the first."""
    half = x.shape[-1] // 2
    if x.shape[-3] == 1:  # a decode step
        return jnp.concatenate([-x[..., half:], x[..., :half]], axis=-1)
    # A product, which is exact because each sum has one term. Halves of a head would use only half of a TPU's lanes.
    matrix = np.zeros((2 * half, 2 * half), x.dtype)
    matrix[np.arange(half) + half, np.arange(half)] = -1
    matrix[np.arange(half), np.arange(half) + half] = 1
    with jax.named_scope(SWAP):
        return jnp.matmul(x, matrix, precision=jax.lax.Precision.HIGHEST)
