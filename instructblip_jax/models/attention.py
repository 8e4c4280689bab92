"""Multi-head attention, one for all parts: self or cross, biased, masked, cached."""

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.layers import dropout, linear


def mask_bias(mask: jax.Array) -> jax.Array:
    """Key mask [B, S] (true or 1 = attend) -> additive bias float32 [B, 1, 1, S]: 0, or the lowest finite value."""
    return jnp.where(mask.astype(bool), 0.0, jnp.finfo(jnp.float32).min)[:, None, None, :]


def causal_bias(length: int) -> jax.Array:
    """Additive bias float32 [1, 1, T, T] that hides later positions."""
    return jnp.where(jnp.tri(length, dtype=bool), 0.0, jnp.finfo(jnp.float32).min)[None, None]


class Attention(nnx.Module):
    """Projections q, k, v, o and scaled dot-product attention with a float32 softmax.

    Keys and values are a step of their own, so that they can come from another sequence, from a cache, or be
    computed once for many queries.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_size: int,
        *,
        context_width: int | None = None,
        bias: bool = True,
        scale: float | None = None,
        dropout_rate: float = 0.0,
        dtype,
        rngs: nnx.Rngs,
    ):
        inner = heads * head_size
        context_width = context_width or width
        self.heads, self.head_size, self.dropout_rate = heads, head_size, dropout_rate
        self.scale = head_size**-0.5 if scale is None else scale
        # Unscaled attention (T5) is born with the scale in its query kernel.
        gain = head_size**-0.5 / self.scale
        self.q = linear(width, inner, ("embed", "heads"), bias=bias, gain=gain, dtype=dtype, rngs=rngs)
        self.k = linear(context_width, inner, ("embed", "heads"), bias=bias, dtype=dtype, rngs=rngs)
        self.v = linear(context_width, inner, ("embed", "heads"), bias=bias, dtype=dtype, rngs=rngs)
        self.o = linear(inner, width, ("heads", "embed"), bias=bias, dtype=dtype, rngs=rngs)

    def _split(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.heads, self.head_size)  # [B, T, H, K]

    def keys_values(self, context: jax.Array) -> tuple[jax.Array, jax.Array]:
        """context [B, S, D'] -> keys and values, each [B, S, H, K]."""
        return self._split(self.k(context)), self._split(self.v(context))

    def __call__(
        self,
        x: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        *,
        bias: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """x [B, T, D], keys and values [B, S, H, K], bias float32 broadcast to [B, H, T, S] -> [B, T, D].

        ``key`` switches the dropout of the attention probabilities on.
        """
        query = self._split(self.q(x)) * self.scale
        scores = jnp.einsum("bthk,bshk->bhts", query, keys, preferred_element_type=jnp.float32)
        if bias is not None:
            scores = scores + bias
        weights = dropout(jax.nn.softmax(scores, axis=-1), self.dropout_rate, key).astype(values.dtype)
        mixed = jnp.einsum("bhts,bshk->bthk", weights, values)  # [B, T, H, K]
        return self.o(mixed.reshape(*mixed.shape[:2], -1))
