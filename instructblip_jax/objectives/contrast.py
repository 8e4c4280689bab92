"""Image-text contrast: unit vectors, similarities, and cross-entropy with soft targets.

ALBEF (arXiv 2107.07651), BLIP (arXiv 2201.12086) and BLIP-2's first stage (arXiv 2301.12597). Targets are float32
[B, N], rows that sum to 1 over the N candidates; the first B candidates are those of the batch itself.
"""

import jax
import jax.numpy as jnp

LEAST_LENGTH = 1e-12
"""Shorter vectors are divided by this number: a zero vector stays zero, and has a gradient."""


def unit(x: jax.Array) -> jax.Array:
    """x [..., E] -> float32 [..., E] of length 1."""
    x = x.astype(jnp.float32)
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, LEAST_LENGTH**2))


def best_query(queries: jax.Array, texts: jax.Array) -> jax.Array:
    """Query embeddings [B, Q, E] and texts [N, E] -> float32 [B, N]: each pair's largest product over the queries."""
    products = jnp.einsum("bqe,ne->bnq", queries, texts, precision=jax.lax.Precision.HIGHEST)
    return jnp.max(products, axis=-1)


def diagonal_targets(rows: int, candidates: int) -> jax.Array:
    """float32 [B, N]: the positive of each row is the candidate with the same index."""
    return jnp.eye(rows, candidates, dtype=jnp.float32)


def same_picture(pictures: jax.Array, candidates: jax.Array) -> jax.Array:
    """Identities int [B] and [N] -> bool [B, N], true if row and candidate have the same image."""
    return pictures[:, None] == candidates[None, :]


def even_targets(same: jax.Array) -> jax.Array:
    """bool [B, N] -> float32 [B, N]: all true candidates share a row's target equally; there must be at least one."""
    counted = same.astype(jnp.float32)
    return counted / jnp.sum(counted, axis=1, keepdims=True)


def picture_targets(pictures: jax.Array, candidates: jax.Array) -> jax.Array:
    """Identities int [B] and [N] -> float32 [B, N]: all candidates with a row's image share its target equally.

    Each row's own image must be among the candidates.
    """
    return even_targets(same_picture(pictures, candidates))


def smoothed(targets: jax.Array, smoothing: float) -> jax.Array:
    """The targets [B, N] with ``smoothing`` of their weight spread evenly over all candidates."""
    return (1.0 - smoothing) * targets + smoothing / targets.shape[1]


def mixed(targets: jax.Array, teacher: jax.Array, alpha: jax.Array | float) -> jax.Array:
    """The targets [B, N] with ``alpha`` of their weight moved to the teacher's softmax; its logits [B, N] have no
    gradient (momentum distillation, ALBEF section 3.4)."""
    return alpha * jax.nn.softmax(jax.lax.stop_gradient(teacher), axis=1) + (1.0 - alpha) * targets


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Logits and targets float32 [B, N] -> each row's cross-entropy, float32 [B]."""
    return -jnp.sum(targets * jax.nn.log_softmax(logits, axis=1), axis=1)
