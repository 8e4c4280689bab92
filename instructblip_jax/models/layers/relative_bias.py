"""T5's relative-position buckets and bias."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def buckets(distance: np.ndarray, *, bidirectional: bool, count: int, max_distance: int) -> np.ndarray:
    """Bucket (int32) of each key-minus-query ``distance``: exact for small distances, logarithmic for larger ones.

    Computed in NumPy and float32, once per shape: the logarithm is truncated, so different rounding gives different
    buckets.
    """
    result = np.zeros(distance.shape, np.int32)
    if bidirectional:
        count //= 2
        result += (distance > 0).astype(np.int32) * count
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = count // 2
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / np.float32(
        math.log(max_distance / exact)
    )
    far = exact + (ratio * np.float32(count - exact)).astype(np.int32)
    return result + np.where(distance < exact, distance, np.minimum(far, count - 1)).astype(np.int32)


def relative_bias(
    table: jax.Array,
    queries: int,
    keys: int,
    *,
    first: jax.Array | int = 0,
    bidirectional: bool,
    max_distance: int,
) -> jax.Array:
    """table [buckets, H] -> float32 [1, H, T, S]: T query positions starting at ``first``, S key positions at 0."""
    distance = np.arange(keys)[None, :] - np.arange(keys)[:, None]  # [S, S]
    index = buckets(distance, bidirectional=bidirectional, count=table.shape[0], max_distance=max_distance)
    rows = jax.lax.dynamic_slice_in_dim(jnp.asarray(index), first, queries, axis=0)  # [T, S]
    return jnp.transpose(table.astype(jnp.float32)[rows], (2, 0, 1))[None]
