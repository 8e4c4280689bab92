"""Gated cross-attention (arXiv 2204.14198, section 2.2): blocks by which a frozen language model looks at pictures.

A block stands in front of a layer of the language model. Its tanh gates begin at zero, so that the model begins as if
the block were not there.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from instructblip_jax.models.layers.attention import HeadNormAttention, Part, attend, weights
from instructblip_jax.models.layers.primitives import ACTIVATIONS, layer_norm, linear, rms_norm
from instructblip_jax.sharding import residual, whole


@dataclasses.dataclass(frozen=True)
class GatedConfig:
    """Sizes of the blocks of one language model; the defaults are OpenFlamingo's.

    Attributes:
      width: of the language model, D.
      media_width: of the pictures' vectors.
      inner: width of the feed-forward; 4 D in Flamingo, the language model's in Idefics.
      activation: of the feed-forward: "gelu", "squared_relu" (Flamingo), "silu" (Idefics).
      swiglu: the form of Idefics: RMS norms of ``epsilon`` and a gated feed-forward, as LLaMA has them.
      head_norms: queries and keys have an RMS norm over each head (Idefics).
      vector_gates: a gate a channel, not one for all.
    """

    width: int
    media_width: int
    inner: int
    heads: int = 8
    head_size: int = 64
    activation: str = "gelu"
    swiglu: bool = False
    epsilon: float = 1e-5
    head_norms: bool = False
    vector_gates: bool = False


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sight:
    """The vectors that tokens may look at.

    Attributes:
      bias: additive bias float32 [B, 1, (N,) T, S] of the S vectors of all pictures of a row.
      sees: bool [B, (N,) T]: true where a token has any.
    """

    bias: jax.Array
    sees: jax.Array


def sight(picture: jax.Array, count: int, vectors: int, *, earlier: bool) -> Sight:
    """The pictures' numbers int [B, (N,) T], from 1, of the tokens -> what they see of ``count`` pictures of
    ``vectors`` vectors each: the picture of their number; if ``earlier``, all up to it. 0 sees none."""
    number = jnp.repeat(jnp.arange(1, count + 1), vectors)
    own = picture[..., None]
    seen = (number <= own) if earlier else (number == own)
    bias = jnp.where(seen, 0.0, jnp.finfo(jnp.float32).min)
    return Sight(jnp.expand_dims(bias, picture.ndim - 1), picture > 0)


class GatedBlock(nnx.Module):
    """Attention over the pictures and a feed-forward, each behind a norm and added through the tanh of a gate."""

    def __init__(self, config: GatedConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        width = config.width
        kind: dict[str, Any] = {"bias": False, "dtype": dtype, "rngs": rngs}
        norm = partial(rms_norm if config.swiglu else layer_norm, width, config.epsilon, dtype=dtype, rngs=rngs)
        of_head = partial(rms_norm, config.head_size, config.epsilon, dtype=dtype, rngs=rngs)
        self.attn_norm = norm()
        self.attn = HeadNormAttention(
            width,
            config.heads,
            config.head_size,
            context_width=config.media_width,
            norm=of_head if config.head_norms else None,
            **kind,
        )
        self.ffn_norm = norm()
        self.gate: Any = linear(width, config.inner, ("embed", "mlp"), **kind) if config.swiglu else None
        self.up = linear(width, config.inner, ("embed", "mlp"), **kind)
        self.down = linear(config.inner, width, ("mlp", "embed"), **kind)
        gates = (width if config.vector_gates else 1,)
        self.attn_gate = nnx.Param(jnp.zeros(gates), axes=("embed",))
        self.ffn_gate = nnx.Param(jnp.zeros(gates), axes=("embed",))
        self.activation = ACTIVATIONS[config.activation]

    def keys_values(self, media: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The pictures' vectors [B, S, D'] -> keys and values [B, H, S, K], which all later tokens share."""
        return self.attn.keys_values(media)

    def __call__(self, x: jax.Array, keys: jax.Array, values: jax.Array, seen: Sight) -> jax.Array:
        """x [B, (N,) T, D], keys and values [B, H, S, K] -> [B, (N,) T, D]. A token that sees no picture gets nothing
        from the attention, and passes through the feed-forward all the same."""
        parts: list[Part] = [(keys, values, seen.bias)]
        read = self.attn.output(attend(self.attn.queries(whole(self.attn_norm(x))), parts))
        # A fully hidden row of the softmax is an average over all pictures.
        read = jnp.where(seen.sees[..., None], read, jnp.zeros_like(read))
        x = residual(x + _open(self.attn_gate, x) * read)
        h = whole(self.ffn_norm(x))
        inner = checkpoint_name(self.up(h), "up")
        if self.gate is None:
            inner = self.activation(inner)
        else:
            inner = self.activation(checkpoint_name(self.gate(h), "gate")) * inner
        return x + _open(self.ffn_gate, x) * self.down(inner)

    def look(self, x: jax.Array, keys: jax.Array, seen: Sight) -> jax.Array:
        """The attention of the tokens x [B, T, D] to the vectors with these keys, float32 [B, T, S], the mean over
        heads; zeros where a token sees no picture. The gate is not part of it."""
        found = weights(self.attn.queries(whole(self.attn_norm(x))), keys, seen.bias)
        return jnp.where(seen.sees[..., None], found, 0.0)


def _open(gate: nnx.Param, x: jax.Array) -> jax.Array:
    """How far a gate is open, in the type of ``x``; tanh in float32."""
    return jnp.tanh(gate[...].astype(jnp.float32)).astype(x.dtype)
