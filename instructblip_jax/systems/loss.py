"""Losses as (sum, count), so that padding, accumulation and the number of devices never change a mean."""

import jax
import jax.numpy as jnp

IGNORE = -100
"""The label of a position where no loss is taken."""


def token_log_likelihood(logits: jax.Array, ids: jax.Array) -> jax.Array:
    """logits float32 [..., T, V], ids int [..., T] -> log-probability of each id, float32 [..., T]."""
    log_norm = jax.nn.logsumexp(logits, axis=-1)
    return jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0] - log_norm


def token_cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """logits float32 [B, T, V], labels int [B, T] -> negative log-likelihood summed over counted tokens, and their
    number, both float32 scalars."""
    counted = labels != IGNORE
    each = token_log_likelihood(logits, jnp.where(counted, labels, 0))
    return -jnp.sum(each * counted), jnp.sum(counted, dtype=jnp.float32)
