"""Losses as (sum, count), so that padding, accumulation and the number of devices never change a mean."""

import jax
import jax.numpy as jnp

IGNORE = -100
"""The label of a position where no loss is taken."""


def token_cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """logits float32 [B, T, V], labels int [B, T] -> negative log-likelihood summed over counted tokens, and their
    number, both float32 scalars."""
    counted = labels != IGNORE
    target = jnp.where(counted, labels, 0)
    log_norm = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
    return jnp.sum((log_norm - chosen) * counted), jnp.sum(counted, dtype=jnp.float32)
