"""Random draws of a search: from one key for all rows of a batch, or from one key per row."""

import jax
import jax.numpy as jnp
import numpy as np

Seed = int | np.ndarray
"""One integer for a batch, or one for each of its rows, [B]: a row's draws then do not depend on its batch."""


def key_of(seed: Seed) -> jax.Array:
    """The key of a seed, or the keys [B] of the rows' seeds."""
    return jax.random.key(seed) if np.ndim(seed) == 0 else jax.vmap(jax.random.key)(jnp.asarray(seed, jnp.uint32))


def split(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The key, or keys [B], for later draws and for the next one."""
    if key.ndim == 0:
        later, own = jax.random.split(key)
        return later, own
    pairs = jax.vmap(jax.random.split)(key)
    return pairs[:, 0], pairs[:, 1]


def categorical(key: jax.Array, scores: jax.Array) -> jax.Array:
    """Draw ids int [B, N] by scores [B, N, V], unnormalised log-probabilities."""
    draw = jax.random.categorical
    return draw(key, scores) if key.ndim == 0 else jax.vmap(draw)(key, scores)


def gumbel(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Gumbel noise float32 of a shape [B, ...]."""
    if key.ndim == 0:
        return jax.random.gumbel(key, shape)
    return jax.vmap(lambda own: jax.random.gumbel(own, shape[1:]))(key)
