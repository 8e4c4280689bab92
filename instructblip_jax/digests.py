"""Digests of arrays: one number per array, equal for equal bits, however the array is sharded.

The bits of each element are mixed with its position, and the results are added modulo 2**32. A change of one element is
always detected, because its term is a bijection of its bits; swaps and larger damage are missed in one of 2**32 cases.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_CHUNK = 1 << 18  # elements that fit a processor's cache with all intermediate results


def of_devices(tree: Any) -> dict[str, int]:
    """Path -> digest of every array of a tree, computed on the arrays' devices; the same in every process."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    # One at a time: on CPU devices, programs in flight together may block one another's collectives.
    return {_name(path): int(_summed(x)) for path, x in flat}


def of_host(tree: Any) -> dict[str, int]:
    """The digests of `of_devices`, for NumPy arrays, computed on the host."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): _sum(x) for path, x in flat}


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _mix(bits: Any, position: Any) -> Any:
    """Mix uint32 bits with uint32 positions -> uint32, for NumPy or JAX arrays."""
    mixed = (bits ^ (position * np.uint32(0x9E3779B1))) * np.uint32(0x85EBCA6B)
    return mixed ^ (mixed >> np.uint32(15))


def _sum(x: np.ndarray) -> int:
    bits, total = x.reshape(-1).view(f"u{x.dtype.itemsize}"), 0
    for start in range(0, bits.size, _CHUNK):
        part = bits[start : start + _CHUNK].astype(np.uint32)
        position = np.arange(start, start + part.size, dtype=np.uint64).astype(np.uint32)
        total += int(_mix(part, position).sum(dtype=np.uint64))
    return total % (1 << 32)


@jax.jit
def _summed(x: jax.Array) -> jax.Array:
    """Digest, a uint32 scalar, on every device that holds a part of ``x``."""
    bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}").astype(jnp.uint32)
    position = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):  # no reshape, so that a sharded array stays in place
        position = position * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    return jnp.sum(_mix(bits, position), dtype=jnp.uint32)
