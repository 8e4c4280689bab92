"""Multi-head attention of all parts: self or cross, with bias, mask and KV cache, for one or many continuations."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from instructblip_jax.models.layers.primitives import dropout, linear


def mask_bias(mask: jax.Array) -> jax.Array:
    """Key mask [B, S] (true or 1 = attend) -> additive bias float32 [B, 1, 1, S]: 0, or the lowest finite value."""
    return jnp.where(mask.astype(bool), 0.0, jnp.finfo(jnp.float32).min)[:, None, None, :]


def causal_bias(length: int) -> jax.Array:
    """Additive bias float32 [1, 1, T, T] that hides later positions."""
    return jnp.where(jnp.tri(length, dtype=bool), 0.0, jnp.finfo(jnp.float32).min)[None, None]


def attend(
    query: jax.Array,
    parts: Sequence[tuple[jax.Array, jax.Array, jax.Array | None]],
    *,
    dropout_rate: float = 0.0,
    keep: jax.Array | None = None,
) -> jax.Array:
    """Attention of scaled queries over the keys of all ``parts`` together, with one float32 softmax.

    ``query`` is [B, T, H, K], or [B, N, T, H, K] for N continuations of each example. A part is (keys, values, bias):
    keys and values are [B, G, S, K], shared by all N, or [B, G, N, S, K], separate for each; bias is float32,
    broadcastable to [B, (N,) H, T, S], or None. G divides H: consecutive query heads share a key head (grouped-query
    attention). ``keep``, bool [B, (N,) H, T, S], enables dropout of the attention weights. Returns the shape of
    ``query``.

    The heads of keys and values come before their positions, the order of the einsums, so that a cache that is read at
    every step is never transposed.
    """
    n = "n" if query.ndim == 5 else ""
    heads, groups = query.shape[-2], parts[0][0].shape[1]
    grouped = query.reshape(*query.shape[:-2], groups, heads // groups, query.shape[-1])
    scores = []
    for keys, _, bias in parts:
        own = "n" if keys.ndim == 5 else ""
        score = jnp.einsum(f"b{n}tgrk,bg{own}sk->b{n}grts", grouped, keys, preferred_element_type=jnp.float32)
        score = score.reshape(*score.shape[:-4], heads, *score.shape[-2:])  # [B, (N,) H, T, S]
        scores.append(score if bias is None else score + bias)
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1) if len(scores) > 1 else scores[0], axis=-1)
    weights = dropout(weights, dropout_rate, keep)
    weights = weights.reshape(*weights.shape[:-3], groups, heads // groups, *weights.shape[-2:])
    mixed, start = jnp.zeros((), query.dtype), 0
    for keys, values, _ in parts:
        own = "n" if values.ndim == 5 else ""
        share = weights[..., start : start + keys.shape[-2]].astype(values.dtype)
        mixed = mixed + jnp.einsum(f"b{n}grts,bg{own}sk->b{n}tgrk", share, values)
        start += keys.shape[-2]
    return mixed.reshape(query.shape)


class Attention(nnx.Module):
    """Projections q, k, v, o and scaled dot-product attention.

    `keys_values` is a separate step, so that keys and values can come from another sequence or a cache, or be computed
    once for many queries. ``kv_heads``: number of key and value heads (default: ``heads``).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_size: int,
        *,
        kv_heads: int | None = None,
        context_width: int | None = None,
        bias: bool = True,
        scale: float | None = None,
        dropout_rate: float = 0.0,
        int8: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        context_width = context_width or width
        self.heads, self.kv_heads, self.head_size = heads, kv_heads or heads, head_size
        self.dropout_rate = dropout_rate
        self.scale = head_size**-0.5 if scale is None else scale
        # Unscaled attention (T5) has the scale in the initial values of its query kernel.
        gain = head_size**-0.5 / self.scale
        inner, kv_inner = heads * head_size, self.kv_heads * head_size
        kind: dict[str, Any] = {"bias": bias, "int8": int8, "dtype": dtype, "rngs": rngs}
        self.q = linear(width, inner, ("embed", "heads"), gain=gain, **kind)
        self.k = linear(context_width, kv_inner, ("embed", "heads"), **kind)
        self.v = linear(context_width, kv_inner, ("embed", "heads"), **kind)
        self.o = linear(inner, width, ("heads", "embed"), **kind)

    def queries(self, x: jax.Array) -> jax.Array:
        """x [..., T, D] -> scaled queries [..., T, H, K]."""
        return self._split(self.q(x), self.heads) * self.scale

    def keys_values(self, context: jax.Array) -> tuple[jax.Array, jax.Array]:
        """context [..., S, D'] -> keys and values, each [..., G, S, K]."""
        keys, values = (self._split(x, self.kv_heads) for x in (self.k(context), self.v(context)))
        return keys.swapaxes(-3, -2), values.swapaxes(-3, -2)

    def output(self, mixed: jax.Array) -> jax.Array:
        """Output projection of what `attend` returned: [..., T, H, K] -> [..., T, D]."""
        return self.o(mixed.reshape(*mixed.shape[:-2], -1))

    def __call__(
        self,
        x: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        *,
        bias: jax.Array | None = None,
        keep: jax.Array | None = None,
    ) -> jax.Array:
        """x [B, T, D], keys and values [B, G, S, K], bias and keep as `attend` takes them -> [B, T, D]."""
        parts = [(keys, values, bias)]
        return self.output(attend(self.queries(x), parts, dropout_rate=self.dropout_rate, keep=keep))

    def _split(self, x: jax.Array, heads: int) -> jax.Array:
        return x.reshape(*x.shape[:-1], heads, self.head_size)
