"""KV cache: keys and values of earlier tokens, written in place, for stacks and lists of layers.

A cache is {"k", "v"} of arrays [L, B, G, N, T, K] for a stack, and a list of L such with [B, G, N, T, K] for a list of
layers; N is the number of continuations of each of B examples, T the capacity in tokens.
"""

from typing import Any

import jax
import jax.numpy as jnp

from instructblip_jax.models.layers.attention import causal_bias
from instructblip_jax.sharding import constrain

Cache = Any


def init(context: Cache, rows: int, length: int) -> Cache:
    """Empty cache for ``length`` tokens of ``rows`` continuations of each example of a context.

    ``context``: {"k", "v"} of arrays [L, B, G, S, K], or a list of L such with [B, G, S, K].
    """

    def empty(keys: jax.Array) -> jax.Array:
        *layers, batch, groups, _, size = keys.shape
        made = jnp.zeros((*layers, batch, groups, rows, length, size), keys.dtype)
        return constrain(made, *(None for _ in layers), "batch", "heads", None, None, None)

    return jax.tree.map(empty, context)


def length(cache: Cache) -> int:
    """Capacity T of a cache in tokens."""
    return jax.tree.leaves(cache)[0].shape[-2]


def extend(
    cache: Cache | None, layer: int | jax.Array, keys: jax.Array, values: jax.Array, index: jax.Array | int
) -> tuple[jax.Array, jax.Array, Cache | None]:
    """Write keys and values [B, N, G, T', K] of one layer at the positions from ``index`` on.

    Returns all of that layer's keys and values [B, G, N, T, K], and the cache. Without a cache they are the new ones.
    """
    new = {"k": keys.swapaxes(1, 2), "v": values.swapaxes(1, 2)}
    if cache is None:
        return new["k"], new["v"], None
    if isinstance(cache, list):
        own = {
            name: jax.lax.dynamic_update_slice_in_dim(array, new[name].astype(array.dtype), index, axis=3)
            for name, array in cache[layer].items()
        }
        return own["k"], own["v"], [*cache[:layer], own, *cache[layer + 1 :]]
    cache = {
        name: jax.lax.dynamic_update_slice(array, new[name].astype(array.dtype)[None], (layer, 0, 0, 0, index, 0))
        for name, array in cache.items()
    }
    own = {name: jax.lax.dynamic_index_in_dim(array, layer, 0, keepdims=False) for name, array in cache.items()}
    return own["k"], own["v"], cache


def causal(rows: int, cache: Cache | None, index: jax.Array | int) -> jax.Array:
    """Additive bias float32 [1, 1, T', T] of ``rows`` tokens at the positions from ``index`` on, which attend to the
    cache's tokens up to themselves. Without a cache they attend only to one another."""
    if cache is None:
        return causal_bias(rows)
    return jax.lax.dynamic_slice_in_dim(causal_bias(length(cache)), index, rows, axis=2)


def part(
    keys: jax.Array, values: jax.Array, bias: jax.Array, origin: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A part for `attention.attend`: the continuations' own tokens, keys and values [B, G, N, T, K].

    ``bias``: float32 [1, 1 or H, T', T]. ``origin``: None if each continuation's tokens are in its own row; or int
    [B, N, T], the row that holds its token at each position. All beams then read all rows in place, with the tokens of
    others masked; when beams are reordered, only ``origin`` changes.
    """
    if origin is None:
        return keys, values, bias
    rows = jnp.arange(origin.shape[1], dtype=origin.dtype)[:, None]
    theirs = (origin[:, :, None] == rows)[:, :, None, None]  # [B, N, 1, 1, N, T]
    hidden = jnp.where(theirs, bias[..., None, :], jnp.finfo(jnp.float32).min)  # [B, N, H, T', N, T]

    def joined(x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], -1, x.shape[-1])  # [B, G, N * T, K]

    return joined(keys), joined(values), hidden.reshape(*hidden.shape[:4], -1)
