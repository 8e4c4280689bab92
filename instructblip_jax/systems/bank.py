"""Banks of encoded images for use in any number of prompts."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from instructblip_jax.systems.protocol import Media


def arranged(banks: Sequence[Media], place: jax.Array, sharding: NamedSharding) -> Media:
    """Image numbers int [B, N] -> the media of B rows of N images each, sharded by ``sharding``.

    ``banks``: media of rows with one image each, {name: [M, 1, Q, D]}. Numbers count the rows of all banks, one bank
    after the other; -1 means no image (zeros).
    """

    def gather(*arrays: jax.Array) -> jax.Array:
        found = jnp.zeros((*place.shape, *arrays[0].shape[2:]), arrays[0].dtype)
        start = 0
        for x in arrays:
            here = (place >= start) & (place < start + x.shape[0])
            own = x[jnp.clip(place - start, 0, x.shape[0] - 1), 0]
            found = jnp.where(here.reshape(*here.shape, *[1] * (found.ndim - 2)), own, found)
            start += x.shape[0]
        return jax.lax.with_sharding_constraint(found, sharding)

    return jax.tree.map(gather, *banks)


def joined(parts: Sequence[Media]) -> Media:
    """Media of several batches -> those of all their rows."""
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)


def pooled(media: Media) -> jax.Array:
    """Media of rows with one image each -> unit vectors float32 [M, D] for comparing images: the mean of an image's
    vectors."""
    vectors = jnp.concatenate([x.astype(jnp.float32).mean(axis=(1, 2)) for x in media.values()], axis=-1)
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
