"""Multi-head attention of all parts: self or cross, with bias, mask and KV cache, for one or many continuations."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from instructblip_jax.models.layers import rope
from instructblip_jax.models.layers.int8 import Int8
from instructblip_jax.models.layers.primitives import dropout, linear
from instructblip_jax.sharding import constrain, platform

Part = tuple[jax.Array, jax.Array, jax.Array | None]
"""Keys, values and bias, as `attend` takes them."""
HIDDEN = -(2.0**41)
"""The lowest bias that cuDNN is given. float32's lowest value is -inf in bfloat16, and a row that attends to nothing
would be NaN; this one is finite, and as large that no score changes it."""


def mask_bias(mask: jax.Array) -> jax.Array:
    """Key mask [B, S] (true or 1 = attend) -> additive bias float32 [B, 1, 1, S]: 0, or the lowest finite value."""
    return jnp.where(mask.astype(bool), 0.0, jnp.finfo(jnp.float32).min)[:, None, None, :]


def causal_bias(length: int) -> jax.Array:
    """Additive bias float32 [1, 1, T, T] that hides later positions."""
    return jnp.where(jnp.tri(length, dtype=bool), 0.0, jnp.finfo(jnp.float32).min)[None, None]


def attend(
    query: jax.Array,
    parts: Sequence[Part],
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
    every step is never transposed. On a GPU whole sequences in bfloat16 go through cuDNN, equal within bfloat16's
    rounding, where scores never enter the memory.
    """
    if _cudnn_takes(query, parts) and keep is None:
        return _by_cudnn(query, *parts[0])
    return _plain(query, parts, dropout_rate, keep)


def _plain(
    query: jax.Array, parts: Sequence[Part], dropout_rate: float = 0.0, keep: jax.Array | None = None
) -> jax.Array:
    """`attend` as matrix products and a softmax, for every platform and shape."""
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


def weights(query: jax.Array, keys: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """The softmax by which `attend` mixes values, its mean over the heads: scaled queries [B, T, H, K] over as many
    heads of keys [B, H, S, K], with an additive bias [B, 1 or H, 1 or T, S] or None -> float32 [B, T, S]."""
    scores = jnp.einsum("bthk,bhsk->bhts", query, keys, preferred_element_type=jnp.float32)
    return jnp.mean(jax.nn.softmax(scores if bias is None else scores + bias), axis=1)


@functools.cache
def has_cudnn() -> bool:
    """True if GPUs are at hand, and a cuDNN that jax finds new enough for attention: it asks while it traces."""
    tiny = jax.ShapeDtypeStruct((1, 2, 1, 64), jnp.bfloat16)
    try:
        jax.eval_shape(functools.partial(jax.nn.dot_product_attention, implementation="cudnn"), tiny, tiny, tiny)
        return all(float(device.compute_capability) >= 8.0 for device in jax.local_devices(backend="cuda"))
    except RuntimeError:
        return False


def _cudnn_takes(query: jax.Array, parts: Sequence[Part]) -> bool:
    """True where the mesh in force is of GPUs, and cuDNN knows these shapes and types."""
    if platform() != "gpu" or len(parts) > 1 or query.ndim > 4 or not has_cudnn():
        return False
    keys, values, bias = parts[0]
    size = query.shape[-1]
    return (
        {x.dtype for x in (query, keys, values)} == {jnp.dtype(jnp.bfloat16)}
        and keys.shape[1] == query.shape[2]  # grouped heads could be split over fewer devices than the queries'
        and size % 8 == 0
        and size <= 128
        and (bias is None or _even(query, keys))
    )


def _even(query: jax.Array, keys: jax.Array) -> bool:
    """True if both lengths are even: jax refuses others in cuDNN's backward pass."""
    return query.shape[1] % 2 == keys.shape[2] % 2 == 0


def _cudnn_forward(query: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | None) -> jax.Array:
    """`attend` over one part by cuDNN, query [B, T, H, K]; its gradient of the bias is 0 where that has rows."""
    if bias is not None:
        bias = jnp.broadcast_to(bias, (*bias.shape[:2], query.shape[1], keys.shape[2]))
        bias = jnp.maximum(bias, HIDDEN).astype(query.dtype)
        bias = constrain(
            bias, "batch" if bias.shape[0] > 1 else None, "heads" if bias.shape[1] > 1 else None, None, None
        )
    # It can be partitioned over devices if batch and heads are split the same way in all arrays, and nothing else is.
    arrays = (query, keys.swapaxes(1, 2), values.swapaxes(1, 2))  # each [B, T or S, H, K]
    query, keys, values = (constrain(x, "batch", None, "heads", None) for x in arrays)
    return jax.nn.dot_product_attention(query, keys, values, bias, scale=1.0, implementation="cudnn")


@jax.custom_vjp
def _by_cudnn(query: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | None) -> jax.Array:
    """`_cudnn_forward`, with the plain form's gradient of the bias: not computed where nobody wants it."""
    return _cudnn_forward(query, keys, values, bias)


def _by_cudnn_forward(query: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | None) -> tuple:
    def form(query: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
        return (
            _cudnn_forward(query, keys, values, bias) if _even(query, keys) else _plain(query, [(keys, values, bias)])
        )

    mixed, backward = jax.vjp(form, query, keys, values)
    return mixed, (backward, (query, keys, values, bias))


def _by_cudnn_backward(kept: Any, gradient: jax.Array) -> tuple:
    backward, (query, keys, values, bias) = kept
    _, of_bias = jax.vjp(lambda bias: _plain(query, [(keys, values, bias)]), bias)
    return *backward(gradient), *of_bias(gradient)


_by_cudnn.defvjp(_by_cudnn_forward, _by_cudnn_backward)


class Attention(nnx.Module):
    """Projections q, k, v, o and scaled dot-product attention.

    `keys_values` is a separate step, so that keys and values can come from another sequence or a cache, or be computed
    once for many queries. ``kv_heads``: number of key and value heads (default: ``heads``). ``qkv_bias``: the first
    three have biases (default: ``bias``).
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
        qkv_bias: bool | None = None,
        scale: float | None = None,
        dropout_rate: float = 0.0,
        int8: Int8 = False,
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
        kind: dict[str, Any] = {"int8": int8, "dtype": dtype, "rngs": rngs}
        first = kind | {"bias": bias if qkv_bias is None else qkv_bias}
        self.q = linear(width, inner, ("embed", "heads"), gain=gain, **first)
        self.k = linear(context_width, kv_inner, ("embed", "heads"), **first)
        self.v = linear(context_width, kv_inner, ("embed", "heads"), **first)
        self.o = linear(inner, width, ("heads", "embed"), bias=bias, **kind)

    # Names are for `stack.REMAT`. Heads are split after it: a saved array whose last dimension is a head's size takes
    # twice the memory on TPU where that is 64.

    def queries(self, x: jax.Array, place: rope.Angles | None = None) -> jax.Array:
        """x [..., T, D] -> scaled queries [..., T, H, K], rotated to their positions' angles if these are given."""
        if place is None:
            return self._split(checkpoint_name(self.q(x), "q"), self.heads) * self.scale
        return checkpoint_name(rope.rotate(self._split(self.q(x), self.heads) * self.scale, place), "q")

    def keys_values(self, context: jax.Array, place: rope.Angles | None = None) -> tuple[jax.Array, jax.Array]:
        """context [..., S, D'] -> keys, rotated if ``place`` is given, and values, each [..., G, S, K]."""
        if place is None:
            keys = self._split(checkpoint_name(self.k(context), "k"), self.kv_heads)
        else:
            keys = checkpoint_name(rope.rotate(self._split(self.k(context), self.kv_heads), place), "k")
        values = self._split(checkpoint_name(self.v(context), "v"), self.kv_heads)
        return keys.swapaxes(-3, -2), values.swapaxes(-3, -2)

    def output(self, mixed: jax.Array) -> jax.Array:
        """Output projection of what `attend` returned: [..., T, H, K] -> [..., T, D]."""
        return checkpoint_name(self.o(mixed.reshape(*mixed.shape[:-2], -1)), "o")

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


class HeadNormAttention(Attention):
    """Attention whose queries and keys pass through norms over each head, as in Idefics (arXiv 2306.16527).

    ``norm`` makes such a norm over the head's size; without one this is `Attention`.
    """

    def __init__(self, *args: Any, norm: Callable[[], nnx.Module] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.q_norm: Any = None if norm is None else norm()
        self.k_norm: Any = None if norm is None else norm()

    def queries(self, x: jax.Array, place: rope.Angles | None = None) -> jax.Array:
        """See `Attention.queries`; there are no rotations where there are norms."""
        if self.q_norm is None:
            return super().queries(x, place)
        return self.q_norm(self._split(checkpoint_name(self.q(x), "q"), self.heads)) * self.scale

    def keys_values(self, context: jax.Array, place: rope.Angles | None = None) -> tuple[jax.Array, jax.Array]:
        """See `Attention.keys_values`."""
        keys, values = super().keys_values(context, place)
        return keys if self.k_norm is None else self.k_norm(keys), values
