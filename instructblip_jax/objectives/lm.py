"""The language modelling loss: cross-entropy of the token after each position."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from instructblip_jax.objectives.term import Term

IGNORE = -100
"""The label of a position without loss."""
CHUNK = 64
"""Number of positions whose logits exist at the same time: float32 [B, T, V] of a long text would be the largest
array."""


UNROLLED = 8
"""Chunks per iteration of the loop; with fewer chunks there is no loop."""


def token_log_likelihood(logits: jax.Array, ids: jax.Array) -> jax.Array:
    """logits float32 [..., T, V], ids int [..., T] -> log-probability of each id, float32 [..., T]."""
    log_norm = jax.nn.logsumexp(logits, axis=-1)
    return jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0] - log_norm


def token_cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """logits float32 [B, T, V], labels int [B, T] -> each row's negative log-likelihood, summed over the tokens that
    count, and their number, both float32 [B].

    ``smoothing``: the fraction of each token's target that is spread evenly over all V, including the true token.
    """
    counted = labels != IGNORE
    each = token_log_likelihood(logits, jnp.where(counted, labels, 0))
    if smoothing:
        even = jnp.mean(logits, axis=-1) - jax.nn.logsumexp(logits, axis=-1)
        each = (1.0 - smoothing) * each + smoothing * even
    return -jnp.sum(each * counted, axis=1), jnp.sum(counted, axis=1, dtype=jnp.float32)


def chunked_cross_entropy(
    to_logits: Callable[[jax.Array], jax.Array],
    hidden: jax.Array,
    labels: jax.Array,
    chunk: int = CHUNK,
    smoothing: float = 0.0,
) -> Term:
    """The cross-entropy of ``to_logits(hidden)``, hidden [B, T, D], in chunks of positions.

    The logits of a chunk are discarded, and recomputed in the backward pass. ``smoothing`` as in `token_cross_entropy`.
    """
    rows, length, _ = hidden.shape
    if length <= chunk:
        return Term(*token_cross_entropy(to_logits(hidden), labels, smoothing))
    spare = -length % chunk
    hidden = jnp.pad(hidden, ((0, 0), (0, spare), (0, 0)))
    labels = jnp.pad(labels, ((0, 0), (0, spare)), constant_values=IGNORE)

    def part(x: jax.Array) -> jax.Array:
        return x.reshape(rows, -1, chunk, *x.shape[2:]).swapaxes(0, 1)  # [chunks, B, chunk, ...]

    @jax.checkpoint
    def add(total: tuple[jax.Array, jax.Array], each: tuple[jax.Array, jax.Array]) -> tuple[tuple, None]:
        found = token_cross_entropy(to_logits(each[0]), each[1], smoothing)
        return jax.tree.map(jnp.add, total, found), None

    zero = jnp.zeros(rows, jnp.float32)
    # The compiler hoists work common to all chunks out of a loop: it would first widen the whole int8 head.
    return Term(*jax.lax.scan(add, (zero, zero), (part(hidden), part(labels)), unroll=UNROLLED)[0])
