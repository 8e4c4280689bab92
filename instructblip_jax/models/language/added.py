"""Tokens added to a frozen language model: trainable rows, separate from its own tables, which stay unchanged."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from instructblip_jax.models.layers.primitives import embedding, linear


class AddedTokens(nnx.Module):
    """``count`` embeddings of width D, and a head without bias that gives their logits."""

    def __init__(self, count: int, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.count = count
        self.tokens = embedding(count, width, (None, "embed"), dtype=dtype, rngs=rngs)
        self.to_vocab = linear(width, count, ("embed", None), bias=False, dtype=dtype, out_dtype=jnp.float32, rngs=rngs)

    def embed(self, ids: jax.Array, known: jax.Array, first: int) -> jax.Array:
        """Ids int [..., T], of which those from ``first`` on are added, and the language model's embeddings of them
        [..., T, D] (arbitrary for added ids) -> embeddings [..., T, D]."""
        own = self.tokens(jnp.clip(ids - first, 0, self.count - 1))
        return jnp.where((ids >= first)[..., None], own, known)

    def logits(self, x: jax.Array, known: jax.Array, first: int) -> jax.Array:
        """Normalised states [..., T, D] and the language model's logits [..., T, V] -> float32 [..., T, first + count],
        starting with the language model's."""
        return jnp.concatenate([known[..., :first], self.to_vocab(x)], axis=-1)
